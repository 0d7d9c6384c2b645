//! Takes out of a text what says whose machine it is.

use serde_json::Value;

/// Names of variables and fields whose values are secrets.
const SECRET: [&str; 6] = ["token", "secret", "password", "passwd", "api_key", "credential"];

/// Replaces user names, host names, home folders, addresses, serials and identifiers.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    /// What is replaced wherever it occurs, longest first.
    folders: Vec<String>,
    /// Whole words that are replaced, with what replaces them.
    words: Vec<(String, &'static str)>,
}

impl Redactor {
    /// For a machine whose user, home folders and host are these; empty texts are passed over.
    pub fn new(users: &[String], homes: &[String], hosts: &[String]) -> Self {
        let useful = |text: &&String| text.len() > 1;
        let trimmed = homes.iter().map(|home| home.trim_end_matches(['/', '\\']).to_owned());
        let mut folders: Vec<String> = trimmed.filter(|home| home.len() > 1).collect();
        folders.sort_by_key(|home| std::cmp::Reverse(home.len()));
        let mut words = Vec::new();
        // Everyone's names say nothing, and occur in other senses.
        let telling = |name: &&String| !matches!(name.as_str(), "root" | "localhost");
        for user in users.iter().filter(useful).filter(telling) {
            words.push((user.to_lowercase(), "<user>"));
        }
        for host in hosts.iter().filter(useful).filter(telling) {
            words.push((host.to_lowercase(), "<host>"));
            let first = host.split('.').next().unwrap_or_default();
            words.push((first.to_lowercase(), "<host>"));
        }
        Self { folders, words }
    }

    /// For this process's user and machine.
    pub fn of_this_machine() -> Self {
        let set = |names: &[&str]| -> Vec<String> {
            names.iter().filter_map(|name| std::env::var(name).ok()).collect()
        };
        let homes = set(&["HOME", "USERPROFILE"]);
        let mut users = set(&["USER", "LOGNAME", "USERNAME", "SUDO_USER"]);
        let last = |home: &String| home.rsplit(['/', '\\']).next().map(str::to_owned);
        users.extend(homes.iter().filter_map(last));
        let mut hosts = set(&["HOSTNAME", "COMPUTERNAME"]);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname");
        hosts.extend(kernel.map(|name| name.trim().to_owned()));
        Self::new(&users, &homes, &hosts)
    }

    /// The text without what says whose machine it is.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for folder in &self.folders {
            text = text.replace(folder.as_str(), "~");
        }
        let lines: Vec<String> = text.lines().map(|line| self.line(line)).collect();
        lines.join("\n")
    }

    /// Every text in a document, its names included; secrets by the name of their field.
    pub fn json(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(values) => values.iter().map(|value| self.json(value)).collect(),
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| {
                    let hidden = is_secret(name) && value.is_string();
                    let value = if hidden { Value::from("<removed>") } else { self.json(value) };
                    (self.text(name), value)
                };
                Value::Object(fields.iter().map(field).collect())
            }
            other => other.clone(),
        }
    }

    fn line(&self, line: &str) -> String {
        let key = line.split([':', '=']).next().unwrap_or_default().to_lowercase();
        if key.len() < line.len() && (key.contains("serial") || is_secret(&key)) {
            return format!("{}: <removed>", line[..key.len()].trim_end());
        }
        let line = replace_homes(line);
        let words = map_words(&line, |word| self.word(word));
        map_runs(&words, |c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'), address)
    }

    fn word(&self, word: &str) -> Option<String> {
        let lower = word.to_lowercase();
        if let Some((_, stand_in)) = self.words.iter().find(|(name, _)| *name == lower) {
            return Some((*stand_in).to_owned());
        }
        if let Some(start) = uuid_start(word) {
            return Some(format!("{}<uuid>", &word[..start]));
        }
        if word.starts_with("hf_") && word.len() >= 20 {
            return Some("<removed>".to_owned());
        }
        // Containers, machines and commits are named by long hexadecimal numbers.
        let hexadecimal = word.chars().all(|c| c.is_ascii_hexdigit());
        let mixed = word.contains(|c: char| c.is_ascii_digit())
            && word.contains(|c: char| c.is_ascii_alphabetic());
        if hexadecimal && mixed && word.len() >= 12 {
            return Some("<id>".to_owned());
        }
        // Names such as `docker-0123456789ab…`: the parts are looked at one by one.
        if word.contains(['-', '_']) {
            let parts = map_runs(word, |c| !matches!(c, '-' | '_'), |part| self.word(part));
            return (parts != word).then_some(parts);
        }
        None
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET.iter().any(|secret| name.ends_with(secret))
}

/// `/home/NAME`, `/Users/NAME` and `C:\Users\NAME` of any user.
fn replace_homes(line: &str) -> String {
    const PARENTS: [&str; 5] = ["/home/", "/Users/", "\\Users\\", "\\\\Users\\\\", "/run/user/"];
    let mut line = line.to_owned();
    for parent in PARENTS {
        let mut from = 0;
        while let Some(at) = line[from..].find(parent).map(|at| from + at + parent.len()) {
            let ends = |c: char| matches!(c, '/' | '\\' | ' ' | '"' | '\'' | ':' | ',' | ';');
            let end = line[at..].find(ends).map_or(line.len(), |end| at + end);
            if end > at {
                line.replace_range(at..end, "<user>");
            }
            from = at;
        }
    }
    line
}

/// Where a UUID begins at the end of `word` (`GPU-…`, `MIG-…` or alone).
fn uuid_start(word: &str) -> Option<usize> {
    let start = word.len().checked_sub(36)?;
    let tail = word.get(start..)?;
    let groups: Vec<&str> = tail.split('-').collect();
    let sizes = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]);
    let plain = groups.iter().all(|group| group.chars().all(|c| c.is_ascii_hexdigit()));
    (sizes && plain).then_some(start)
}

/// What stands in for a network address; `None` for any other run of digits, letters, dots and colons.
fn address(run: &str) -> Option<String> {
    let parts: Vec<&str> = run.split(':').collect();
    let pair = |part: &&str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    if parts.len() == 6 && parts.iter().all(pair) {
        return Some("<mac>".to_owned());
    }
    let host = run.split(':').next().unwrap_or_default().trim_end_matches('.');
    let octets: Vec<&str> = host.split('.').collect();
    let octet = |part: &&str| part.parse::<u8>().is_ok();
    // Versions have four numbers, too: theirs are small.
    let large = octets[0] == "10" || octets.iter().any(|part| part.len() == 3);
    if octets.len() == 4 && octets.iter().all(octet) && large {
        return Some(format!("<ip>{}", &run[host.len()..]));
    }
    let groups = parts.len() >= 3 && parts.iter().all(|part| part.len() <= 4);
    let six = groups && parts.len() <= 8 && !run.contains('.') && run.len() >= 9;
    // PCI addresses are `0000:01:00.0`, times `12:34:56`: neither has so many long groups.
    (six && parts.iter().filter(|part| part.len() > 2).count() >= 2).then(|| "<ip>".to_owned())
}

/// Applies `change` to every word: letters, digits, `-` and `_`.
fn map_words(text: &str, change: impl Fn(&str) -> Option<String>) -> String {
    map_runs(text, |c| c.is_alphanumeric() || matches!(c, '-' | '_'), change)
}

/// Applies `change` to every longest run of characters that are `inside`.
fn map_runs(
    text: &str,
    inside: impl Fn(char) -> bool,
    change: impl Fn(&str) -> Option<String>,
) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let own = inside(first);
        let end = rest.find(|c| inside(c) != own).unwrap_or(rest.len());
        let run = &rest[..end];
        match own.then(|| change(run)).flatten() {
            Some(changed) => result.push_str(&changed),
            None => result.push_str(run),
        }
        rest = &rest[end..];
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redactor() -> Redactor {
        let owned =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(|t| (*t).to_owned()).collect() };
        Redactor::new(
            &owned(&["alice", "root", ""]),
            &owned(&["/data/homes/alice/", "/"]),
            &owned(&["alices-box.lan", "localhost"]),
        )
    }

    #[test]
    fn names_homes_and_hosts_go_and_the_rest_stays() {
        for (text, expected) in [
            ("/data/homes/alice/models/x", "~/models/x"),
            ("/home/bob/models", "/home/<user>/models"),
            ("C:\\Users\\Bob Smith\\x", "C:\\Users\\<user> Smith\\x"),
            ("cache of Alice, on ALICES-BOX", "cache of <user>, on <host>"),
            ("server alices-box.lan:/export", "server <host>.lan:/export"),
            ("malice in wonderland", "malice in wonderland"),
            ("root /root /dev/root", "root /root /dev/root"),
            ("user-alice_models", "user-<user>_models"),
        ] {
            assert_eq!(redactor().text(text), expected);
        }
    }

    #[test]
    fn identifiers_and_addresses_go_and_numbers_and_versions_stay() {
        for (text, expected) in [
            ("GPU-0b5f2f5e-1c4e-4a7c-9b1e-0f1e2d3c4b5a", "GPU-<uuid>"),
            ("0b5f2f5e-1c4e-4a7c-9b1e-0f1e2d3c4b5a", "<uuid>"),
            ("/docker/4f5e6d7c8b9a0f1e2d3c", "/docker/<id>"),
            ("docker-4f5e6d7c8b9a0f1e2d3c.scope", "docker-<id>.scope"),
            ("eth0 aa:bb:cc:00:11:22", "eth0 <mac>"),
            ("192.168.1.20:/export", "<ip>:/export"),
            ("at 10.0.0.5.", "at <ip>."),
            ("fe80:1234:abcd:0012:1", "<ip>"),
            ("cudnn 9.1.0.70 driver 550.54.15", "cudnn 9.1.0.70 driver 550.54.15"),
            ("pci 0000:01:00.0 at 12:34:56", "pci 0000:01:00.0 at 12:34:56"),
            ("MemTotal: 65805876 kB", "MemTotal: 65805876 kB"),
            ("123456789012345", "123456789012345"),
            ("hf_abcdefghijklmnopqrstuvwxyz", "<removed>"),
        ] {
            assert_eq!(redactor().text(text), expected);
        }
    }

    #[test]
    fn serials_and_secrets_go_by_the_name_of_their_field() {
        assert_eq!(redactor().text("Serial\t\t: 10000000abcdef"), "Serial: <removed>");
        assert_eq!(redactor().text("HF_TOKEN=abc"), "HF_TOKEN: <removed>");
        let document = json!({"HF_TOKEN": "x", "tokens": 5, "alice": ["/home/bob", 1, null]});
        let expected =
            json!({"HF_TOKEN": "<removed>", "tokens": 5, "<user>": ["/home/<user>", 1, null]});
        assert_eq!(redactor().json(&document), expected);
    }
}
