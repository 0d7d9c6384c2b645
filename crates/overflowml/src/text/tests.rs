use std::fs;

use overflowml_formats::{ConfigError, GenerationDefaults, Model, ModelFiles};
use overflowml_types::Manifest;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The printable stand-in that byte-level tokenizers write for a byte.
fn stand_in(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !printable(other)).count();
    char::from_u32(256 + before as u32).unwrap()
}

/// A byte-level tokenizer: a token per byte, `he`, ` t`, the two halves of `é` together, and two special ones.
fn byte_level() -> Value {
    let mut vocab: Map<String, Value> =
        (0..=255).map(|byte| (stand_in(byte).to_string(), json!(byte))).collect();
    let merges = [("h", "e"), ("Ġ", "t"), ("Ã", "©")];
    for (index, (left, right)) in merges.iter().enumerate() {
        vocab.insert(format!("{left}{right}"), json!(256 + index));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [special(259, "<s>"), special(260, "</s>")],
        "normalizer": null, "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": merges.map(|(left, right)| format!("{left} {right}"))},
    })
}

/// A SentencePiece-like tokenizer: words that begin with `▁`, and bytes for what is no word.
fn metaspace() -> Value {
    let mut vocab = vec![json!(["<unk>", 0.0])];
    vocab.extend((0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), -20.0])));
    vocab.extend(["▁Once", "▁upon", "▁a", "time", "▁", "!"].map(|word| json!([word, -1.0])));
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": true},
    })
}

struct Folder {
    home: tempfile::TempDir,
    model: Model,
}

/// A model of which only the tokenizer's files exist.
fn folder(files: &[(&str, String)]) -> Folder {
    let home = tempfile::tempdir().unwrap();
    let mut model = Model {
        root: home.path().to_owned(),
        manifest: Manifest::default(),
        architecture: None,
        decoder: Err(ConfigError::NoConfig),
        generation: GenerationDefaults::default(),
        files: ModelFiles::default(),
    };
    for (name, content) in files {
        let path = home.path().join(name);
        fs::write(&path, content).unwrap();
        match *name {
            "tokenizer.json" => model.files.tokenizer = Some(path),
            "tokenizer_config.json" => model.files.tokenizer_config = Some(path),
            _ => model.files.chat_template = Some(path),
        }
    }
    Folder { home, model }
}

fn open(tokenizer: &Value, config: &Value) -> Result<Text, TextError> {
    let files = folder(&[
        ("tokenizer.json", tokenizer.to_string()),
        ("tokenizer_config.json", config.to_string()),
    ]);
    Text::open(&files.model)
}

/// All pieces of a stream, and what is left at its end.
fn streamed(text: &Text, tokens: &[u32]) -> String {
    let mut stream = text.stream();
    let mut all: String = tokens.iter().map(|&token| stream.push(token)).collect();
    all += &stream.finish();
    all
}

#[test]
fn text_is_encoded_with_the_special_tokens_around_it_and_without_a_length_limit() {
    let text = open(&byte_level(), &json!({"eos_token": {"content": "</s>"}})).unwrap();
    assert_eq!(text.encode("he the").unwrap(), [259, 256, 257, 256]);
    assert_eq!(text.encode("").unwrap(), [259]);
    assert_eq!(text.encode(&"x".repeat(5000)).unwrap().len(), 5001);
    assert_eq!(text.eos_token(), Some(260));
}

#[test]
fn a_character_is_written_when_its_last_byte_has_come() {
    let text = open(&byte_level(), &json!({})).unwrap();
    let mut stream = text.stream();
    let pieces: Vec<String> = "a€b".bytes().map(|byte| stream.push(byte.into())).collect();
    assert_eq!(pieces, ["a", "", "", "€", "b"]);
    // Special tokens are not shown.
    assert_eq!(stream.push(260), "");
    let mut cut = text.stream();
    assert_eq!(
        (cut.push(0xe2), cut.push(0x82), cut.finish()),
        ("".into(), "".into(), "\u{fffd}".into())
    );
}

#[test]
fn words_keep_the_blank_between_them_and_the_first_has_none() {
    let text = open(&metaspace(), &json!({})).unwrap();
    let tokens = text.encode("Once upon a time!").unwrap();
    let mut stream = text.stream();
    let pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token)).collect();
    assert_eq!(pieces.concat(), "Once upon a time!");
    assert_eq!(pieces[1], " upon");
    let long = "Once upon a time! ".repeat(20);
    assert_eq!(streamed(&text, &text.encode(&long).unwrap()), long);
}

proptest! {
    #[test]
    fn pieces_add_up_to_the_whole_for_any_tokens(tokens in prop::collection::vec(0_u32..261, 0..120)) {
        let text = open(&byte_level(), &json!({})).unwrap();
        let whole = text.tokenizer.decode(&tokens, true).unwrap();
        prop_assert_eq!(streamed(&text, &tokens), whole);
    }

    #[test]
    fn any_text_survives_encoding_and_streaming(original in "\\PC{0,60}") {
        let text = open(&byte_level(), &json!({})).unwrap();
        prop_assert_eq!(streamed(&text, &text.encode(&original).unwrap()), original);
    }
}

const LLAMA_LIKE: &str = "{{- bos_token }}\n{% for message in messages %}\n    {{- '<|' + message['role'] + '|>' }}
{{ message.content.strip() }}<|eot|>\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|assistant|>' }}\n{%- endif %}\n";

const STRICT: &str = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}\
    {% for m in messages %}{% if loop.index0 is divisibleby 2 %}[{{ m.content }}]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

fn say(role: Role, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.to_owned() }
}

fn rendered(template: &str, messages: &[ChatMessage]) -> Result<String, TextError> {
    let config =
        json!({"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
    open(&byte_level(), &config).unwrap().template.unwrap().render(messages)
}

#[test]
fn templates_are_rendered_as_transformers_renders_them() {
    let talk = [say(Role::User, " Hello "), say(Role::Assistant, "Hi"), say(Role::User, "Who?")];
    let expected =
        "<s>\n<|user|>\nHello<|eot|><|assistant|>\nHi<|eot|><|user|>\nWho?<|eot|><|assistant|>";
    assert_eq!(rendered(LLAMA_LIKE, &talk).unwrap(), expected);
    assert_eq!(rendered(STRICT, &talk).unwrap(), "[ Hello ] Hi</s>[Who?]");
    let json = "{{ messages | tojson }}{{ strftime_now('%Y') | length }}";
    let expected = "[{\"role\": \"user\", \"content\": \"<é>\"}]4";
    assert_eq!(rendered(json, &[say(Role::User, "<é>")]).unwrap(), expected);
}

#[test]
fn what_a_template_says_about_a_conversation_is_told_in_its_own_words() {
    let refused = rendered(STRICT, &[say(Role::System, "x")]).unwrap_err();
    assert_eq!(refused.to_string(), "the chat template failed: no system role here");
}

#[test]
fn a_conversation_is_encoded_without_further_special_tokens() {
    let config =
        json!({"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": "<s>"});
    let text = open(&byte_level(), &config).unwrap();
    assert_eq!(text.encode_chat(&[say(Role::User, "he")]).unwrap(), [259, 256]);
}

#[test]
fn templates_are_found_where_models_keep_them() {
    let tokenizer = ("tokenizer.json", byte_level().to_string());
    let named = json!({"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]});
    let config = ("tokenizer_config.json", named.to_string());
    let render = |files: &[(&str, String)]| {
        let files = folder(files);
        let text = Text::open(&files.model).unwrap();
        text.template.map(|template| template.render(&[]).unwrap())
    };
    assert_eq!(render(std::slice::from_ref(&tokenizer)), None);
    assert_eq!(render(&[tokenizer.clone(), config.clone()]).as_deref(), Some("yes"));
    let own = ("chat_template.jinja", "file".to_owned());
    assert_eq!(render(&[tokenizer.clone(), config, own]).as_deref(), Some("file"));
    let json = ("chat_template.json", json!({"chat_template": "json"}).to_string());
    assert_eq!(render(&[tokenizer, json]).as_deref(), Some("json"));
}

#[test]
fn missing_and_damaged_files_are_named() {
    let missing = folder(&[]);
    let refused = Text::open(&missing.model).err().unwrap();
    assert_eq!(refused.code(), "text.no-tokenizer");
    assert!(refused.to_string().contains(&missing.home.path().display().to_string()));
    for (name, content, code) in [
        ("tokenizer.json", "{\"model\": 3}", "text.malformed"),
        ("tokenizer_config.json", "[]", "text.malformed"),
        ("chat_template.jinja", "{% for %}", "text.template"),
    ] {
        let mut files = vec![("tokenizer.json", byte_level().to_string())];
        files.push((name, content.to_owned()));
        let refused = Text::open(&folder(&files).model).err().unwrap();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
    let text = open(&byte_level(), &json!({})).unwrap();
    assert_eq!(text.require_chat_template().unwrap_err().code(), "text.no-chat-template");
}
