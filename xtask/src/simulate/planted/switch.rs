//! Several versions of a source file as one file, in which a number decides which version runs: each
//! function that differs between versions gets the bodies of all of them.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// What a switched function asks for the number.
const ASKED: &str = "::spindle_planted::on()";

/// The body of a function that is inside no other function.
#[derive(Debug)]
struct Body {
    bytes: Range<usize>,
    name: String,
    is_const: bool,
}

/// Finds the bodies in a file, in their order.
#[derive(Default)]
struct Finder(Vec<Body>);

impl Finder {
    fn note(&mut self, sig: &syn::Signature, block: &syn::Block) {
        self.0.push(Body {
            bytes: block.span().byte_range(),
            name: sig.ident.to_string(),
            is_const: sig.constness.is_some(),
        });
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        match &item.default {
            Some(block) => self.note(&item.sig, block),
            None => visit::visit_trait_item_fn(self, item),
        }
    }
}

fn bodies(text: &str) -> Result<Vec<Body>> {
    let file = syn::parse_file(text)?;
    let mut finder = Finder::default();
    finder.visit_file(&file);
    Ok(finder.0)
}

/// What is outside of all bodies.
fn frame<'a>(text: &'a str, bodies: &[Body]) -> Vec<&'a str> {
    let starts = [0]
        .into_iter()
        .chain(bodies.iter().map(|body| body.bytes.end));
    let ends = bodies.iter().map(|body| body.bytes.start);
    starts
        .zip(ends.chain([text.len()]))
        .map(|(from, to)| &text[from..to])
        .collect()
}

/// The file with `old`'s functions, of which those that differ in one of `others` run that one's body
/// while its number is on.
///
/// # Errors
/// A version does not parse, or differs in anything else than the bodies of functions that are not
/// `const`.
pub(super) fn merge(old: &str, others: &[(usize, String)]) -> Result<String> {
    let own = bodies(old).context("parse the file as it is")?;
    let mut arms = vec![String::new(); own.len()];
    for (number, text) in others {
        let theirs = bodies(text).with_context(|| format!("parse version {number}"))?;
        ensure!(
            frame(old, &own) == frame(text, &theirs),
            "version {number} differs in more than the bodies of functions"
        );
        for ((arm, own), body) in arms.iter_mut().zip(&own).zip(theirs) {
            let changed = &text[body.bytes];
            if changed == &old[own.bytes.clone()] {
                continue;
            }
            if own.is_const {
                bail!("version {number} changes `{}`, which is const", own.name);
            }
            arm.push_str(&format!("{number} => {changed}\n"));
        }
    }
    let (mut merged, mut at) = (String::new(), 0);
    for (arm, Body { bytes, .. }) in arms.iter().zip(&own) {
        merged.push_str(&old[at..bytes.start]);
        at = bytes.end;
        let body = &old[bytes.clone()];
        if arm.is_empty() {
            merged.push_str(body);
        } else {
            merged.push_str(&format!("{{ match {ASKED} {{\n{arm}_ => {body}\n}} }}"));
        }
    }
    merged.push_str(&old[at..]);
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "const N: u8 = 1;\nimpl A {\n    fn one(&self) -> u8 { 1 }\n    /// Two.\n    \
        fn two() -> u8 {\n        fn inner() {}\n        2\n    }\n}\nconst fn three() -> u8 { 3 }\n";

    #[test]
    fn a_function_has_the_bodies_of_all_versions_that_differ() {
        let change = |from: &str, to: &str| OLD.replace(from, to);
        let others = [
            (4, change("{ 1 }", "{ 10 }")),
            (7, change("        2\n", "        20\n")),
            (
                9,
                change("{ 1 }", "{ 100 }").replace("        2\n", "        200\n"),
            ),
        ];
        let merged = merge(OLD, &others).unwrap();
        for part in [
            "fn one(&self) -> u8 { match ::spindle_planted::on() {\n4 => { 10 }\n9 => { 100 }\n_ => { 1 }\n} }",
            "7 => {\n        fn inner() {}\n        20\n    }\n9 =>",
            "const fn three() -> u8 { 3 }\n",
        ] {
            assert!(merged.contains(part), "{part} is not in {merged}");
        }
        syn::parse_file(&merged).unwrap();
        assert_eq!(merge(OLD, &[]).unwrap(), OLD);
    }

    #[test]
    fn what_no_switch_could_choose_is_refused() {
        for (from, to, says) in [
            ("N: u8 = 1", "N: u8 = 2", "more than the bodies"),
            ("{ 3 }", "{ 4 }", "is const"),
            ("fn two", "fn deux", "more than the bodies"),
            ("{ 1 }", "{ 1", "parse version 1"),
        ] {
            let error = merge(OLD, &[(1, OLD.replace(from, to))]).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }
}
