//! Identify Namespace (NVM Express NVM Command Set 1.0, 4.1.5.1).

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::NvmeAnswer;
use super::fields::{Field, Shape, json as as_json, lines, number};

/// Bytes that count.
pub(super) const BYTES: usize = 384;
/// NSFEAT: the preferred granularities count.
const HAS_GRANULARITY: u128 = 1 << 4;
/// The formats, of four bytes each.
const FORMATS: usize = 128;

#[rustfmt::skip]
const FIRST: [Field; 24] = {
    use Shape::{Decimal, Hex};
    [
        ("nsze", 0, 8, Hex), ("ncap", 8, 8, Hex), ("nuse", 16, 8, Hex), ("nsfeat", 24, 1, Hex),
        ("nlbaf", 25, 1, Decimal), ("flbas", 26, 1, Hex), ("mc", 27, 1, Hex), ("dpc", 28, 1, Hex),
        ("dps", 29, 1, Hex), ("nmic", 30, 1, Hex), ("rescap", 31, 1, Hex), ("fpi", 32, 1, Hex),
        ("dlfeat", 33, 1, Decimal), ("nawun", 34, 2, Decimal), ("nawupf", 36, 2, Decimal),
        ("nacwu", 38, 2, Decimal), ("nabsn", 40, 2, Decimal), ("nabo", 42, 2, Decimal),
        ("nabspf", 44, 2, Decimal), ("noiob", 46, 2, Decimal), ("nvmcap", 48, 16, Decimal),
        ("mssrl", 74, 2, Decimal), ("mcl", 76, 4, Decimal), ("msrc", 80, 1, Decimal),
    ]
};
const GRANULARITY: [Field; 5] = [
    ("npwg", 64, 2, Shape::Decimal),
    ("npwa", 66, 2, Shape::Decimal),
    ("npdg", 68, 2, Shape::Decimal),
    ("npda", 70, 2, Shape::Decimal),
    ("nows", 72, 2, Shape::Decimal),
];
const LAST: [Field; 7] = [
    ("nulbaf", 82, 1, Shape::Decimal),
    ("anagrpid", 92, 4, Shape::Decimal),
    ("nsattr", 99, 1, Shape::Decimal),
    ("nvmsetid", 100, 2, Shape::Decimal),
    ("endgid", 102, 2, Shape::Decimal),
    ("nguid", 104, 16, Shape::Bytes),
    ("eui64", 120, 8, Shape::Bytes),
];

/// The page of namespace `id`, as text and as JSON.
pub(super) fn decode(id: u32, page: &[u8]) -> NvmeAnswer {
    let mut fields = FIRST.to_vec();
    if number(page, 24, 1) & HAS_GRANULARITY != 0 {
        fields.extend(GRANULARITY);
    }
    fields.extend(LAST);
    let mut text = format!("NVME Identify Namespace {id}:\n{}", lines(page, &fields, 8));
    let mut all = as_json(page, &fields);
    let flbas = number(page, 26, 1);
    let in_use = flbas & 0xf | flbas >> 1 & 0x30;
    let mut formats = Vec::new();
    for format in 0..=number(page, 25, 1).min(63) {
        let at = FORMATS + 4 * format as usize;
        let metadata = number(page, at, 2);
        let (shift, performance) = (number(page, at + 2, 1), number(page, at + 3, 1) & 3);
        let used = if format == in_use { "(in use)" } else { "" };
        let performance_shown = match performance {
            0 => "0".to_string(),
            some => format!("{some:#x}"),
        };
        // A string takes everything.
        let _ = writeln!(
            text,
            "lbaf {format:2} : ms:{metadata:<3} lbads:{shift:<2} rp:{performance_shown} {used}"
        );
        formats.push(json!({
            "ms": metadata as u64,
            "ds": shift as u64,
            "rp": performance as u64,
            "in_use": u8::from(format == in_use),
        }));
    }
    all.insert("lbafs".into(), json!(formats));
    let text: Vec<_> = text.lines().map(str::trim_end).collect();
    NvmeAnswer {
        text: text.join("\n"),
        json: Value::Object(all),
    }
}
