//! A real byte-level BPE tokenizer of any size: merges learned from words made of common English
//! parts. It does not imitate any published tokenizer; it makes prompts cost tokens as usual.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use serde_json::{Map, Value, json};

pub(super) const BOS: u32 = 0;
pub(super) const EOS: u32 = 1;
pub(super) const PAD: u32 = 2;

const SPECIAL: [&str; 6] =
    ["<|start|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"];

const CHAT_TEMPLATE: &str = "{% for message in messages %}<|{{ message['role'] }}|>\n\
    {{ message['content'] }}<|end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>\n{% endif %}";

const COMMON: &str = "the of and to in that it is was for on are as with his they at be this from \
    have or by one had not but what all were when we there can an your which their said if do \
    will each about how up out them then she many some so these would other into has more her two \
    like him see time could no make than first been its who now people my made over did down only \
    way find use may water long little very after words called just where most know larger memory \
    model once upon";

const PREFIXES: &str = "- re un over";

const STEMS: &str = "act add age aim air arm art ask back bake band bank bare base bath beam bear \
    beat bend bind bird bite blend block board boat body bond book boot border bound bow box branch \
    brand brave bread break bridge bright bring broad brush build burn call calm camp care carry \
    cart cast catch cause chain chair chalk change charge chart check child claim class clean clear \
    climb clock close cloth cloud coach coal coast coat cold colour count course cover craft cream \
    cross crowd crown cut dance dark dawn deal deep dig dish dive door draw dream dress drift drink \
    drive drop dry dust earth edge fair fall farm fast feed feel fence field fight fill film fire \
    fish fit flash flat float flood floor flow fly fold follow food force form frame free fresh \
    front fruit gain game garden gate gather give glass glow gold grain grand grass green ground \
    group grow guard guess guide hand hang hard harm heart heat help hill hold home hope horse \
    house hunt ice join joy judge jump keep kind king knock land laugh launch lead leaf lean learn \
    leave letter level lift light limit line link list load lock look loud love mark market mass \
    master match measure meet melt mend mill mind mine mist mix moon mount move name nest night \
    note offer open order pack page paint pair paper park part pass path pay peace phone place \
    plain plan plant play plough point port post pour press price print proof pull push quick \
    quiet race rain raise range reach read reason record rest ride ring rise river road rock roll \
    roof room root round row rule run safe sail salt sand save scale school score sea seal search \
    season seat sell send sense serve set shade shake shape share sharp sheet shelf shell shift \
    shine ship shoe shop shore short shout show side sign silver sing sink sleep slide slow smile \
    smoke smooth snow soft soil song sound space spark speak spell spend spin spread spring square \
    stack stage stand star start state stay steam steel step stick stone stop store storm stream \
    street strong study sugar summer sun sweet swim swing table take talk teach tell tend test \
    thank thick think thread throw tide tie till tone tool top touch tower town trace track trade \
    train travel tree trick trust turn twist type value view voice wait walk wall want warm wash \
    watch wave wear weather wheel wide wild win wind window winter wish wonder wood work world \
    wrap write yard year young";

const SUFFIXES: &str = "- s ed ing er ers ly ness less ful able ment y ish like ward wise work land \
    side man light house time way";

/// A token, by its id.
type Token = u32;
type Pair = (Token, Token);

/// `tokenizer.json` with at most `vocab` tokens, special ones included.
pub(super) fn tokenizer_json(vocab: u32) -> Value {
    let mut names: Vec<String> = SPECIAL.iter().map(|&name| name.to_owned()).collect();
    names.extend((0..=255).map(|byte| byte_name(byte).to_string()));
    let mut merges = Vec::new();
    let room = (vocab as usize).saturating_sub(names.len());
    for (left, right) in learn(room, Words::new(1000 + 2 * room)) {
        let name = [names[left as usize].as_str(), names[right as usize].as_str()].concat();
        merges.push(format!("{} {}", names[left as usize], names[right as usize]));
        names.push(name);
    }
    let vocabulary: Map<String, Value> =
        names.into_iter().enumerate().map(|(id, name)| (name, json!(id))).collect();
    let added: Vec<_> =
        SPECIAL.iter().enumerate().map(|(id, name)| added_token(id, name)).collect();
    let byte_level = |add_prefix_space: bool, trim_offsets: bool| {
        json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space,
                "trim_offsets": trim_offsets, "use_regex": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level(false, true),
        "post_processor": byte_level(true, false),
        "decoder": byte_level(true, true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": merges,
        },
    })
}

fn added_token(id: usize, name: &str) -> Value {
    json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
}

pub(super) fn tokenizer_config_json() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[BOS as usize],
        "eos_token": SPECIAL[EOS as usize],
        "pad_token": SPECIAL[PAD as usize],
        "add_bos_token": false,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 8192,
        "chat_template": CHAT_TEMPLATE,
    })
}

/// The character that stands for a byte in byte-level vocabularies: itself where it is visible,
/// else the next free one from 256 up.
fn byte_name(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !visible(byte)).count();
    u32::try_from(256 + before).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[allow(clippy::cast_possible_truncation)] // six special tokens
fn byte_token(byte: u8) -> Token {
    SPECIAL.len() as Token + Token::from(byte)
}

/// The words to learn from: each as tokens, with how often it occurs.
struct Words(Vec<(Vec<Token>, u64)>);

impl Words {
    /// At most `most` words, the most frequent kinds first.
    fn new(most: usize) -> Self {
        let mut seen = BTreeSet::new();
        let mut words = Vec::new();
        let mut add = |word: String, count: u64| {
            if seen.len() < most && seen.insert(word.clone()) {
                words.push((word.bytes().map(byte_token).collect(), count));
            }
        };
        for (rank, word) in COMMON.split_whitespace().enumerate() {
            add(format!(" {word}"), 200_000 / (rank as u64 + 1));
        }
        let part = |part: &'static str| if part == "-" { "" } else { part };
        for (first, prefix) in (1..).zip(PREFIXES.split_whitespace().map(part)) {
            for (last, suffix) in (1..).zip(SUFFIXES.split_whitespace().map(part)) {
                for stem in STEMS.split_whitespace() {
                    add(format!(" {prefix}{stem}{suffix}"), 1 + 3000 / (first * first * last));
                }
            }
        }
        Self(words)
    }
}

/// The `room` best merges, each the most frequent pair after those before it.
///
/// Ties go to the pair of lower ids, so that the result does not depend on any hashing.
fn learn(room: usize, words: Words) -> Vec<Pair> {
    let Words(mut words) = words;
    let mut counts: HashMap<Pair, u64> = HashMap::new();
    let mut users: HashMap<Pair, Vec<usize>> = HashMap::new();
    for (number, (tokens, count)) in words.iter().enumerate() {
        for pair in pairs(tokens) {
            *counts.entry(pair).or_default() += count;
            users.entry(pair).or_default().push(number);
        }
    }
    let entry = |pair: Pair, count: u64| (count, std::cmp::Reverse(pair));
    let mut queue: BinaryHeap<_> =
        counts.iter().map(|(&pair, &count)| entry(pair, count)).collect();
    let mut merges = Vec::new();
    let mut next = byte_token(u8::MAX);
    while merges.len() < room {
        let Some((count, std::cmp::Reverse(pair))) = queue.pop() else { break };
        // An entry is outdated if the pair's count has changed since.
        if counts.get(&pair) != Some(&count) || count == 0 {
            continue;
        }
        merges.push(pair);
        next += 1;
        let mut changed = BTreeMap::new();
        for number in users.remove(&pair).unwrap_or_default() {
            let (tokens, weight) = &mut words[number];
            pairs(tokens)
                .for_each(|pair| *changed.entry(pair).or_insert(0i64) -= weight.cast_signed());
            merge(tokens, pair, next);
            for pair in pairs(tokens) {
                *changed.entry(pair).or_insert(0) += weight.cast_signed();
                if pair.0 == next || pair.1 == next {
                    users.entry(pair).or_default().push(number);
                }
            }
        }
        for (pair, change) in changed.into_iter().filter(|&(_, change)| change != 0) {
            let count = counts.entry(pair).or_default();
            *count = count.saturating_add_signed(change);
            queue.push(entry(pair, *count));
        }
        counts.remove(&pair);
    }
    merges
}

fn pairs(tokens: &[Token]) -> impl Iterator<Item = Pair> {
    tokens.windows(2).map(|pair| (pair[0], pair[1]))
}

/// Replaces `pair` by `merged`, from left to right.
fn merge(tokens: &mut Vec<Token>, pair: Pair, merged: Token) {
    let mut kept = 0;
    let mut at = 0;
    while at < tokens.len() {
        let is_pair = tokens.get(at..at + 2) == Some(&[pair.0, pair.1]);
        tokens[kept] = if is_pair { merged } else { tokens[at] };
        at += if is_pair { 2 } else { 1 };
        kept += 1;
    }
    tokens.truncate(kept);
}
