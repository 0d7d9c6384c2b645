//! The published example of `detect --json` against the types; the schemas themselves are checked
//! against the command in `tests/oracle/test_schemas.py`.

#![allow(clippy::unwrap_used)] // a failure stops the test

use overflowml::Machine;
use serde_json::Value;

const EXAMPLE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/examples/detect.json"));

#[test]
fn the_example_has_every_field_that_a_machine_can_have_and_no_other() {
    let example: Value = serde_json::from_str(EXAMPLE).unwrap();
    let machine: Machine = serde_json::from_value(example.clone()).unwrap();
    assert_eq!(serde_json::to_value(machine).unwrap(), example);
    assert!(absent(&example).is_empty(), "the example leaves out {:?}", absent(&example));
}

/// Names of fields without a value.
fn absent(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(
                |(name, value)| {
                    if value.is_null() { vec![name.as_str()] } else { absent(value) }
                },
            )
            .collect(),
        Value::Array(values) => values.iter().flat_map(absent).collect(),
        _ => Vec::new(),
    }
}
