//! Fields of a page: where each is, what it is called, and how nvme-cli prints it.

use serde_json::{Map, Value, json};

use crate::tables::text;

/// How a field is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A number.
    Decimal,
    /// A number in hexadecimal, with `0x` unless it is zero.
    Hex,
    /// A number in hexadecimal, with all its digits.
    Digits,
    /// ASCII, without the blanks behind it.
    Text,
    /// Bytes in hexadecimal, in their order.
    Bytes,
}

/// A field: its name, its first byte, and how many it has.
pub(super) type Field = (&'static str, usize, usize, Shape);

/// A number of so many bytes, the lowest first. What is beyond the page is 0.
pub(super) fn number(page: &[u8], at: usize, bytes: usize) -> u128 {
    let byte = |at: usize| u128::from(page.get(at).copied().unwrap_or(0));
    (0..bytes).rev().fold(0, |sum, n| sum << 8 | byte(at + n))
}

/// A field as text.
pub(super) fn shown(page: &[u8], (_, at, len, shape): Field) -> String {
    let value = number(page, at, len.min(16));
    let bytes = page.get(at..at + len).unwrap_or_default();
    match shape {
        Shape::Decimal => value.to_string(),
        Shape::Hex if value == 0 => "0".into(),
        Shape::Hex => format!("{value:#x}"),
        Shape::Digits => format!("{value:0digits$x}", digits = 2 * len),
        Shape::Text => {
            let ended = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            text(String::from_utf8_lossy(ended).trim_end())
        }
        Shape::Bytes => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Lines of these fields, with their names in so many columns.
pub(super) fn lines(page: &[u8], fields: &[Field], width: usize) -> String {
    let line = |field: &Field| format!("{:width$}: {}\n", field.0, shown(page, *field));
    fields.iter().map(line).collect()
}

/// The same fields as JSON.
pub(super) fn json(page: &[u8], fields: &[Field]) -> Map<String, Value> {
    let value = |field: &Field| match field.3 {
        Shape::Decimal | Shape::Hex | Shape::Digits => large(number(page, field.1, field.2)),
        Shape::Text | Shape::Bytes => json!(shown(page, *field)),
    };
    let named = fields
        .iter()
        .map(|field| (field.0.to_string(), value(field)));
    named.collect()
}

/// A number, as a text where JSON's readers would round it.
pub(super) fn large(number: u128) -> Value {
    match u64::try_from(number) {
        Ok(number) => json!(number),
        Err(_) => json!(number.to_string()),
    }
}
