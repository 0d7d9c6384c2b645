//! A GGUF header that is accepted points nowhere outside its file, and its profile can be computed with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::fixture::MemoryDir;
use overflowml_formats::{parse_gguf, profile_in};
use overflowml_types::{Bytes, CacheElement};

fuzz_target!(|input: (u32, &[u8])| {
    let (more, bytes) = input;
    let len = Bytes::of_len(bytes.len()).saturating_add(Bytes::new(u64::from(more)));
    if let Ok(header) = parse_gguf(bytes, len) {
        for tensor in header.tensors {
            assert!(tensor.offset.saturating_add(tensor.len) <= len);
        }
    }
    let dir = MemoryDir::default().with("model.gguf", bytes);
    if let Ok(profile) = profile_in(&dir, Some("model.gguf")) {
        for part in profile.components {
            let _ = part.cache(u64::MAX, CacheElement::Q8_0);
        }
    }
});
