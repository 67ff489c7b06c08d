//! The mutants of a crate, as `cargo mutants --list --json` names them.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Genre {
    /// A function returns a value at once.
    FnValue,
    /// Another operator with two operands.
    BinaryOperator,
    /// `!` or `-` is left out.
    UnaryOperator,
    /// An arm of a `match` is left out.
    MatchArm,
    /// The guard of an arm always holds, or never.
    MatchArmGuard,
    /// A field of a struct is what the base has.
    StructField,
}

/// A line and a column, in characters, both from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1 on.
    pub line: usize,
    /// From 1 on.
    pub column: usize,
}

impl Place {
    /// Bytes before it.
    fn offset(self, text: &str) -> Option<usize> {
        let before = |lines: usize| text.split_inclusive('\n').take(lines).map(str::len).sum();
        let start: usize = before(self.line.checked_sub(1)?);
        let rest = text.get(start..)?;
        let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        Some(start + ends.take(self.column).last()?)
    }
}

/// A change in one place.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What the switch calls it: its place in the list.
    pub id: u32,
    /// As cargo-mutants prints it, with line and column.
    pub name: String,
    /// From the top of the workspace.
    pub file: String,
    /// What is changed.
    pub genre: Genre,
    /// Where what is changed begins.
    pub start: Place,
    /// And ends.
    pub end: Place,
    /// What takes its place.
    pub replacement: String,
    /// What the function around it returns, with the arrow.
    pub returns: String,
}

impl Mutant {
    /// Reads the list.
    ///
    /// # Errors
    /// It is not what cargo-mutants writes.
    pub fn parse(json: &str) -> Result<Vec<Self>> {
        let all: Vec<Value> = serde_json::from_str(json).context("a list of mutants")?;
        let one = |(id, value): (usize, &Value)| -> Result<Self> {
            Self::read(u32::try_from(id)?, value).with_context(|| format!("in {value}"))
        };
        all.iter().enumerate().map(one).collect()
    }

    fn read(id: u32, value: &Value) -> Result<Self> {
        let text = |key: &str| value[key].as_str().map(String::from).context("a text");
        let place = |key: &str| -> Result<Place> {
            let place = &value["span"][key];
            let number = |key: &str| place[key].as_u64().context("a number");
            Ok(Place {
                line: usize::try_from(number("line")?)?,
                column: usize::try_from(number("column")?)?,
            })
        };
        let genre = match value["genre"].as_str() {
            Some("FnValue") => Genre::FnValue,
            Some("BinaryOperator") => Genre::BinaryOperator,
            Some("UnaryOperator") => Genre::UnaryOperator,
            Some("MatchArm") => Genre::MatchArm,
            Some("MatchArmGuard") => Genre::MatchArmGuard,
            Some("StructField") => Genre::StructField,
            _ => bail!("a genre of mutants that is not known"),
        };
        Ok(Self {
            id,
            name: text("name")?,
            file: text("file")?,
            genre,
            start: place("start")?,
            end: place("end")?,
            replacement: text("replacement")?,
            returns: value["function"]["return_type"]
                .as_str()
                .unwrap_or_default()
                .to_string(),
        })
    }

    /// The bytes of its file that it changes.
    ///
    /// # Errors
    /// The file is another one than that which the list was made of.
    pub fn bytes(&self, text: &str) -> Result<Range<usize>> {
        let offset = |place: Place| place.offset(text);
        match (offset(self.start), offset(self.end)) {
            (Some(start), Some(end)) if start <= end => Ok(start..end),
            _ => bail!("{} has no such place: {}", self.file, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_characters_and_ranges_are_bytes() {
        let text = "ä\nöü = 3\n";
        let offset = |line, column| Place { line, column }.offset(text);
        assert_eq!(offset(1, 1), Some(0));
        assert_eq!(offset(2, 1), Some(3));
        assert_eq!(offset(2, 2), Some(5));
        assert_eq!(offset(2, 4), Some(8));
    }
}
