//! Lines of `name=value` words, and texts that must not break a word or a line.

use alloc::format;
use alloc::string::String;
use core::str::FromStr;

/// The words of a line, by name and value; words without `=` are skipped.
pub fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
}

/// The value of the word `name`; `None` if there is no such word, or if its value is not of this type.
#[must_use]
pub fn value<T: FromStr>(line: &str, name: &str) -> Option<T> {
    let (_, value) = words(line).find(|(found, _)| *found == name)?;
    value.parse().ok()
}

/// A name that may come from a disk, as one harmless word: blanks, backslashes and bytes that are not
/// printable ASCII are written `\xNN`.
#[must_use]
pub fn as_word(name: &str) -> String {
    let mut word = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'\\' {
            word.push(char::from(byte));
        } else {
            word += &format!("\\x{byte:02x}");
        }
    }
    word
}
