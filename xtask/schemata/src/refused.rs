//! Which mutants the compiler refuses: a mutant that does not compile must not keep all others from
//! being tried, so that what an error points at is left out, and the rest compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::render::Rendered;

/// A file with mutants.
pub(crate) struct Mutated {
    pub(crate) rendered: Rendered,
    /// Its functions, in the original.
    pub(crate) functions: Vec<Range<usize>>,
    /// Of each mutant, where it is in the original.
    pub(crate) origins: BTreeMap<u32, usize>,
}

/// What is left out.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The error is in the mutant.
    pub(crate) wrong: BTreeSet<u32>,
    /// The error is in what stands around it: the change may compile, the choice does not.
    pub(crate) unfit: BTreeSet<u32>,
}

/// Reads what cargo printed for a build that failed, with the files by their path from the top.
///
/// # Errors
/// An error is not of a mutant.
pub(crate) fn read(messages: &str, files: &BTreeMap<String, Mutated>) -> Result<Refused> {
    let mut refused = Refused::default();
    let mut other = String::new();
    for line in messages.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let message = &value["message"];
        if value["reason"] != "compiler-message" || message["level"] != "error" {
            continue;
        }
        let spans: &[Value] = message["spans"].as_array().map_or(&[], Vec::as_slice);
        if !spans.is_empty() && !attribute(spans, files, &mut refused) {
            other.push_str(message["rendered"].as_str().unwrap_or_default());
        }
    }
    if refused == Refused::default() {
        bail!("it does not compile, but not for a mutant:\n{other}");
    }
    Ok(refused)
}

/// Finds the mutants that an error is of. False if there is none.
fn attribute(spans: &[Value], files: &BTreeMap<String, Mutated>, refused: &mut Refused) -> bool {
    let (primary, labels): (Vec<&Value>, Vec<&Value>) =
        spans.iter().partition(|span| span["is_primary"] == true);
    let places: Vec<(&Mutated, Range<usize>)> = primary
        .into_iter()
        .chain(labels)
        .filter_map(|span| place(span, files))
        .collect();
    for (file, place) in &places {
        if let Some((mutants, alone)) = file.rendered.mutants(place) {
            let list = if alone {
                &mut refused.wrong
            } else {
                &mut refused.unfit
            };
            list.extend(mutants);
            return true;
        }
    }
    // What is in the same function may be what confuses the compiler elsewhere in it.
    for (file, place) in &places {
        let Some(origin) = file.rendered.origin(place.start) else {
            continue;
        };
        let around = |function: &&Range<usize>| function.contains(&origin);
        let Some(function) = file.functions.iter().filter(around).min_by_key(|f| f.len()) else {
            continue;
        };
        let inside = file.origins.iter().filter(|(_, at)| function.contains(at));
        let before = refused.unfit.len();
        refused.unfit.extend(inside.map(|(mutant, _)| mutant));
        if refused.unfit.len() > before {
            return true;
        }
    }
    false
}

fn place<'a>(
    span: &Value,
    files: &'a BTreeMap<String, Mutated>,
) -> Option<(&'a Mutated, Range<usize>)> {
    let byte = |key: &str| usize::try_from(span[key].as_u64()?).ok();
    let file = files.get(span["file_name"].as_str()?)?;
    Some((file, byte("byte_start")?..byte("byte_end")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::Edit;

    const TEXT: &str = "fn f() { a + b } fn g() {}";

    fn files() -> BTreeMap<String, Mutated> {
        let edit = Edit::Choose {
            mutant: 7,
            at: 9..14,
            other: "(a) - (b)".to_string(),
        };
        let file = Mutated {
            rendered: Rendered::new(TEXT, &[edit]),
            functions: vec![7..16, 24..26],
            origins: BTreeMap::from([(7, 9)]),
        };
        BTreeMap::from([("src/lib.rs".to_string(), file)])
    }

    fn error(part: &str) -> Result<Refused> {
        let files = files();
        let start = files["src/lib.rs"].rendered.text.find(part).expect(part);
        let end = start + part.len();
        let message = serde_json::json!({
            "reason": "compiler-message",
            "message": {
                "level": "error",
                "rendered": "no such thing",
                "spans": [{
                    "file_name": "src/lib.rs",
                    "byte_start": start,
                    "byte_end": end,
                    "is_primary": true,
                }],
            },
        });
        read(&message.to_string(), &files)
    }

    #[test]
    fn an_error_is_of_the_mutant_or_the_choice_or_the_function() -> Result<()> {
        let (some, none) = (BTreeSet::from([7]), BTreeSet::new());
        let wrong = error("(a) - (b)")?;
        assert_eq!((wrong.wrong, wrong.unfit), (some.clone(), none.clone()));
        let unfit = error("a + b")?;
        assert_eq!((unfit.wrong, unfit.unfit), (none.clone(), some.clone()));
        let around = error("{ (if")?;
        assert_eq!((around.wrong, around.unfit), (none, some));
        Ok(())
    }

    #[test]
    fn an_error_that_is_of_no_mutant_is_shown() {
        let error = error("fn g").expect_err("of none").to_string();
        assert!(error.contains("no such thing"), "{error}");
    }
}
