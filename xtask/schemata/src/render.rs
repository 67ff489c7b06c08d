//! A file with all its mutants, each behind the switch, and the way back: which mutant, or which part
//! of the original, a place in it is of.

use std::cmp::Reverse;
use std::fmt::Write;
use std::ops::Range;

use crate::sites::{Edit, asked};

/// The file that is compiled.
#[derive(Default)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Places that are there for these mutants only, or for the choice between them.
    places: Vec<(Range<usize>, Vec<u32>)>,
    /// What was copied: where it is now, and where it was.
    copied: Vec<(Range<usize>, usize)>,
}

impl Rendered {
    /// Puts these edits into a file.
    pub(crate) fn new(text: &str, edits: &[Edit]) -> Self {
        let mut edits: Vec<&Edit> = edits.iter().collect();
        // What is around others comes before them.
        edits.sort_by_key(|edit| match edit {
            Edit::Insert { at, .. } => (*at, Reverse(usize::MAX)),
            Edit::Choose { at, .. } => (at.start, Reverse(at.end)),
        });
        let mut rendered = Self::default();
        rendered.range(text, 0..text.len(), &edits);
        rendered
    }

    /// A part of the file, with the edits in it.
    fn range(&mut self, text: &str, range: Range<usize>, mut edits: &[&Edit]) {
        let mut done = range.start;
        while let Some(first) = edits.first() {
            match first {
                Edit::Insert {
                    mutant,
                    at,
                    text: new,
                } => {
                    self.copy(text, done..*at);
                    let start = self.text.len();
                    self.text.push_str(new);
                    self.places.push((start..self.text.len(), vec![*mutant]));
                    done = *at;
                    edits = &edits[1..];
                }
                Edit::Choose { at, .. } => {
                    self.copy(text, done..at.start);
                    let inside = |edit: &&&Edit| match edit {
                        Edit::Insert { at: place, .. } => *place < at.end,
                        Edit::Choose { at: other, .. } => other.end <= at.end,
                    };
                    let count = edits.iter().take_while(inside).count();
                    self.choice(text, at, &edits[..count]);
                    done = at.end;
                    edits = &edits[count..];
                }
            }
        }
        self.copy(text, done..range.end);
    }

    /// An expression for which there are others, and what is changed within it.
    fn choice(&mut self, text: &str, at: &Range<usize>, edits: &[&Edit]) {
        let start = self.text.len();
        let mut mutants = Vec::new();
        self.text.push('(');
        for edit in edits {
            let Edit::Choose {
                mutant,
                at: place,
                other,
            } = edit
            else {
                break;
            };
            if place != at {
                break;
            }
            let from = self.text.len();
            let _ = write!(self.text, "if {} {{ {other} }} else ", asked(*mutant));
            self.places.push((from..self.text.len(), vec![*mutant]));
            mutants.push(*mutant);
        }
        self.text.push_str("{ ");
        self.range(text, at.clone(), &edits[mutants.len()..]);
        self.text.push_str(" })");
        self.places.push((start..self.text.len(), mutants));
    }

    fn copy(&mut self, text: &str, range: Range<usize>) {
        let start = self.text.len();
        self.text.push_str(&text[range.clone()]);
        self.copied.push((start..self.text.len(), range.start));
    }

    /// The mutants that this place is there for: of the smallest part around it. The second value is
    /// whether that part is of one mutant alone.
    pub(crate) fn mutants(&self, place: &Range<usize>) -> Option<(&[u32], bool)> {
        let around = |part: &&(Range<usize>, Vec<u32>)| {
            part.0.start <= place.start && place.end <= part.0.end
        };
        let part = self
            .places
            .iter()
            .filter(around)
            .min_by_key(|part| part.0.len())?;
        let is_choice = self.text[part.0.clone()].starts_with("(if ");
        Some((&part.1, !is_choice))
    }

    /// Where this place was in the original.
    pub(crate) fn origin(&self, place: usize) -> Option<usize> {
        let part = self.copied.iter().find(|(now, _)| now.contains(&place))?;
        Some(part.1 + place - part.0.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(mutant: u32, at: Range<usize>, other: &str) -> Edit {
        Edit::Choose {
            mutant,
            at,
            other: other.to_string(),
        }
    }

    const TEXT: &str = "fn f() { a + b * c }";

    fn edits() -> Vec<Edit> {
        vec![
            choose(1, 9..18, "(a) - (b * c)"),
            choose(3, 13..18, "(b) / (c)"),
            choose(2, 9..18, "(a) * (b * c)"),
            Edit::Insert {
                mutant: 0,
                at: 9,
                text: "if on(0) { return; } ".to_string(),
            },
        ]
    }

    #[test]
    fn what_is_inside_another_is_changed_in_the_original_only() {
        let rendered = Rendered::new(TEXT, &edits());
        let on = asked;
        let (one, two, three) = (on(1), on(2), on(3));
        assert_eq!(
            rendered.text,
            format!(
                "fn f() {{ if on(0) {{ return; }} (if {one} {{ (a) - (b * c) }} else \
                 if {two} {{ (a) * (b * c) }} else {{ a + (if {three} {{ (b) / (c) }} else \
                 {{ b * c }}) }}) }}"
            )
        );
    }

    #[test]
    fn a_place_is_of_the_mutant_that_it_is_there_for() {
        let rendered = Rendered::new(TEXT, &edits());
        let place = |part: &str| {
            let start = rendered.text.find(part).expect(part);
            start..start + part.len()
        };
        let of = |part: &str| rendered.mutants(&place(part));
        assert_eq!(of("return"), Some((&[0][..], true)));
        assert_eq!(of("(a) * (b"), Some((&[2][..], true)));
        assert_eq!(of("a + "), Some((&[1, 2][..], false)));
        assert_eq!(of("b * c })"), Some((&[3][..], false)));
        assert_eq!(of("fn f"), None);
        assert_eq!(rendered.origin(place("a + ").start), Some(9));
        assert_eq!(rendered.origin(rendered.text.len() - 1), Some(19));
        assert_eq!(rendered.origin(place("return").start), None);
    }
}
