//! A header that is accepted points nowhere outside its file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overflowml_formats::safetensors::parse_header;
use overflowml_types::Bytes;

fuzz_target!(|input: (u32, &[u8])| {
    let (more, bytes) = input;
    let len = Bytes::of_len(bytes.len()).saturating_add(Bytes::new(u64::from(more)));
    if let Ok(header) = parse_header(bytes, len) {
        for tensor in header.tensors {
            assert!(tensor.offset.saturating_add(tensor.len) <= len);
        }
    }
});
