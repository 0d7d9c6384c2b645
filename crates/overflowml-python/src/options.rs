//! Python's options as the command's flags: one parser for both.

use std::ffi::OsString;

use serde_json::{Map, Value};

/// What is wrong with options.
#[derive(Debug)]
pub(crate) struct NotOptions(pub(crate) String);

/// `command --flag=value … --json -- subject`; `options` is a JSON object of flags with `_` for `-`, in which `null` and
/// `false` are flags that are not given.
pub(crate) fn arguments(
    command: &str,
    subject: &str,
    options: &str,
) -> Result<Vec<OsString>, NotOptions> {
    let options: Map<String, Value> = match options.trim() {
        "" => Map::new(),
        text => serde_json::from_str(text)
            .map_err(|error| NotOptions(format!("the options are not a JSON object: {error}")))?,
    };
    let mut arguments = vec![OsString::from(command), OsString::from("--json")];
    for (name, value) in &options {
        add(name, value, &mut arguments)?;
    }
    if !subject.is_empty() {
        arguments.extend([OsString::from("--"), OsString::from(subject)]);
    }
    Ok(arguments)
}

fn add(name: &str, value: &Value, arguments: &mut Vec<OsString>) -> Result<(), NotOptions> {
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Err(NotOptions(format!("there is no option `{name}`")));
    }
    let flag = format!("--{}", name.replace('_', "-"));
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Bool(true) => arguments.push(flag.into()),
        // A list's values follow its flag; they must not look like flags.
        Value::Array(values) => {
            arguments.push(flag.into());
            for value in values {
                let number = value.as_f64().filter(|number| *number >= 0.0);
                number.ok_or_else(|| NotOptions(format!("`{name}` takes numbers, not {value}")))?;
                arguments.push(value.to_string().into());
            }
        }
        Value::String(text) => arguments.push(format!("{flag}={text}").into()),
        Value::Number(number) => arguments.push(format!("{flag}={number}").into()),
        Value::Object(_) => {
            return Err(NotOptions(format!("`{name}` takes a value, not an object")));
        }
    }
    Ok(())
}
