//! Just enough of Rust's lexical structure to count lines and spot words in source files.
//!
//! The checks need to know code from comments and strings, where functions and test modules begin
//! and end, and nothing else: that is less than a parser, and it cannot disagree with one about
//! the constructs that this workspace uses.

use std::ops::Range;

/// A word or a single punctuation character of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// What is written.
    pub text: &'a str,
    /// Where, counted from 1.
    pub line: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// From the line of `fn` to the line of the closing brace, inclusive, counted from 1.
    pub lines: Range<usize>,
}

/// `source` with comments, strings and character literals blanked; the lines stay where they are.
pub fn blank_non_code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(source, at);
        if end == at {
            code.push(bytes[at]);
            at += 1;
        } else {
            code.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The end of the comment or literal that starts at `at`, or `at` if none does.
fn literal_end(source: &str, at: usize) -> usize {
    let rest = &source.as_bytes()[at..];
    let length = match rest {
        [b'/', b'/', ..] => find(rest, 2, b"\n").unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => escaped(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !follows_word(source.as_bytes(), at) => raw_string(rest),
        [b'\'', b'\\', ..] => escaped(rest, b'\''),
        [b'\'', ..] => plain_char(&source[at..]),
        _ => 0,
    };
    at + length
}

/// Whether the byte before `at` belongs to a word; the prefixes `b` and `c` of strings do not count.
fn follows_word(bytes: &[u8], at: usize) -> bool {
    let word = |back: usize| at >= back && is_word(bytes[at - back]);
    word(1) && (word(2) || !matches!(bytes[at - 1], b'b' | b'c'))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| at + from)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn escaped(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Zero for a raw identifier such as `r#type`.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    find(rest, 2 + hashes, &close).map_or(rest.len(), |at| at + close.len())
}

/// Zero for a lifetime.
fn plain_char(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(2);
    match chars.next() {
        Some((at, '\'')) => at + 1,
        _ => 0,
    }
}

/// The tokens of blanked source.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.bytes().take_while(|&byte| is_word(byte)).count();
            let (text, after) = rest.split_at(word.max(first.len_utf8()));
            tokens.push(Token { text, line: index + 1 });
            rest = after.trim_start();
        }
    }
    tokens
}

/// The index just after the brace that closes the one at `open`.
fn close_of(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// The token ranges of `#[cfg(test)] mod name { … }`.
pub fn test_modules(tokens: &[Token<'_>]) -> Vec<Range<usize>> {
    const MARK: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        let mut texts = tokens[start..].iter().map(|token| token.text);
        let marked = MARK.iter().all(|&mark| texts.next() == Some(mark));
        let open = start + MARK.len() + 1;
        if marked && tokens.get(open).is_some_and(|token| token.text == "{") {
            found.push(start..close_of(tokens, open));
        }
    }
    found
}

/// Every function with a body, nested ones too.
pub fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    let named = |at: usize| tokens[at].text == "fn" && is_name(tokens.get(at + 1));
    (0..tokens.len())
        .filter(|&at| named(at))
        .filter_map(|at| {
            let open = body_of(tokens, at)?;
            let last = tokens[close_of(tokens, open) - 1].line;
            Some(Function { name: tokens[at + 1].text, lines: tokens[at].line..last + 1 })
        })
        .collect()
}

fn is_name(token: Option<&Token<'_>>) -> bool {
    token.is_some_and(|token| token.text.bytes().all(is_word))
}

/// The brace that opens the body of the function at `at`; `None` for a mere declaration.
fn body_of(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return Some(index),
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        let code = blank_non_code(source);
        tokens(&code).iter().map(|token| token.text.to_owned()).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let hidden = [
            "// fn a",
            "/* fn /* nested */ b */",
            r#""fn \" c""#,
            "r#\"fn \" d\"#",
            "br##\"fn \"# e\"##",
            "b\"fn\"",
        ];
        for source in hidden {
            let seen = words(&format!("{source}\nend"));
            assert!(!seen.contains(&"fn".to_owned()), "{source}: {seen:?}");
            assert_eq!(seen.last().map(String::as_str), Some("end"), "{source}");
        }
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_code() {
        assert_eq!(words("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(words("r#fn x"), ["r", "#", "fn", "x"]);
    }

    #[test]
    fn quotes_and_braces_in_character_literals_open_nothing() {
        assert_eq!(words(r"'{' x '\'' y '“' z"), ["x", "y", "z"]);
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        let code = "trait T {\n fn declared(a: [u8; 4]);\n}\nfn real<F: Fn(u8)>(\n) -> [u8; 2]\n{\n if x {}\n}\n";
        let tokens = tokens(code);
        assert_eq!(functions(&tokens), [Function { name: "real", lines: 4..9 }]);
    }

    #[test]
    fn a_test_module_ends_at_its_closing_brace() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}";
        let tokens = tokens(code);
        let modules = test_modules(&tokens);
        assert_eq!(modules.len(), 1);
        assert_eq!(tokens[modules[0].end].line, 4);
    }

    #[test]
    fn a_test_module_in_its_own_file_is_not_a_range() {
        assert!(test_modules(&tokens("#[cfg(test)]\nmod tests;\nfn c() {}")).is_empty());
    }
}
