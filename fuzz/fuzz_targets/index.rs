//! An index that is accepted names only shards that it lists.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::parse_index;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = parse_index(bytes) {
        assert!(!index.shards.iter().any(|shard| shard.contains('/')));
    }
});
