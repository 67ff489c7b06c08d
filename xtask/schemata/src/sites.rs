//! Where in a file a mutant's alternative goes, and what it is: the operands of an operator, the
//! pattern of an arm and the body of a function are found in the syntax tree.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::mutant::{Genre, Mutant};

/// A change that the switch turns on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// This expression, or another one.
    Choose {
        mutant: u32,
        at: Range<usize>,
        other: String,
    },
    /// A text between two tokens.
    Insert {
        mutant: u32,
        at: usize,
        text: String,
    },
}

/// What was found in a file.
#[derive(Default)]
pub(crate) struct Sites {
    pub(crate) edits: Vec<Edit>,
    /// Mutants in constants and such, for which there is no choice at run time.
    pub(crate) fixed: BTreeSet<u32>,
    /// The functions, innermost last.
    pub(crate) functions: Vec<Range<usize>>,
}

/// What asks the switch.
pub(crate) fn asked(mutant: u32) -> String {
    format!("::mutant_switch::on({mutant})")
}

/// Finds the places of these mutants of one file.
///
/// # Errors
/// The file is not Rust, or not the one that the mutants are of.
pub(crate) fn find(text: &str, mutants: &[Mutant]) -> Result<Sites> {
    let file = syn::parse_file(text).context("parse")?;
    let mut wanted = Vec::new();
    for mutant in mutants {
        wanted.push((mutant.bytes(text)?, mutant));
    }
    let mut search = Search {
        text,
        wanted,
        constant: 0,
        found: Sites::default(),
    };
    search.visit_file(&file);
    let mut found = search.found;
    let edited: BTreeSet<u32> = found
        .edits
        .iter()
        .map(|edit| match edit {
            Edit::Choose { mutant, .. } | Edit::Insert { mutant, .. } => *mutant,
        })
        .collect();
    let ids = mutants.iter().map(|mutant| mutant.id);
    found.fixed.extend(ids.filter(|id| !edited.contains(id)));
    Ok(found)
}

struct Search<'a> {
    text: &'a str,
    wanted: Vec<(Range<usize>, &'a Mutant)>,
    /// How many constant contexts are around.
    constant: u32,
    found: Sites,
}

impl Search<'_> {
    fn source(&self, node: &impl Spanned) -> &str {
        &self.text[node.span().byte_range()]
    }

    /// Adds an edit for each mutant of this genre and in this place.
    fn add(&mut self, genre: Genre, at: &Range<usize>, edit: impl Fn(&Self, &Mutant) -> Edit) {
        if self.constant > 0 {
            return;
        }
        let is_here = |(bytes, mutant): &&(Range<usize>, &Mutant)| {
            mutant.genre == genre
                && bytes.start == at.start
                && (genre == Genre::FnValue || bytes.end == at.end)
        };
        let here = self.wanted.iter().filter(is_here);
        let edits: Vec<Edit> = here.map(|(_, mutant)| edit(self, mutant)).collect();
        self.found.edits.extend(edits);
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constant += 1;
        visit(self);
        self.constant -= 1;
    }

    fn function(
        &mut self,
        sig: &syn::Signature,
        block: &syn::Block,
        inside: impl FnOnce(&mut Self),
    ) {
        self.found.functions.push(block.span().byte_range());
        let is_const = u32::from(sig.constness.is_some());
        self.constant += is_const;
        if let Some(first) = block.stmts.first() {
            let at = first.span().byte_range();
            self.add(Genre::FnValue, &at, |_, mutant| Edit::Insert {
                mutant: mutant.id,
                at: at.start,
                text: format!(
                    "if {} {{ return {}; }} ",
                    asked(mutant.id),
                    mutant.replacement
                ),
            });
        }
        inside(self);
        self.constant -= is_const;
    }
}

/// Whether it has a `let`: part of a chain of conditions, which is no expression of its own.
fn is_chained(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => is_chained(&binary.left) || is_chained(&binary.right),
        _ => false,
    }
}

/// What visits a node in which all is computed by the compiler.
macro_rules! constant {
    ($($visit:ident $node:ident)*) => {
        $(fn $visit(&mut self, node: &'ast syn::$node) {
            self.constant(|search| visit::$visit(search, node));
        })*
    };
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        if !is_chained(&node.left) && !is_chained(&node.right) {
            let (at, op) = (node.span().byte_range(), node.op.span().byte_range());
            self.add(Genre::BinaryOperator, &op, |search, mutant| Edit::Choose {
                mutant: mutant.id,
                at: at.clone(),
                other: format!(
                    "({}) {} ({})",
                    search.source(&node.left),
                    mutant.replacement,
                    search.source(&node.right)
                ),
            });
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let (at, op) = (node.span().byte_range(), node.op.span().byte_range());
        self.add(Genre::UnaryOperator, &op, |search, mutant| Edit::Choose {
            mutant: mutant.id,
            at: at.clone(),
            other: search.source(&node.expr).to_string(),
        });
        visit::visit_expr_unary(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let arm = node.span().byte_range();
        if let Some((_, guard)) = &node.guard {
            let at = guard.span().byte_range();
            // An arm that is never taken is no arm.
            let other = |mutant: &Mutant, other: &str| Edit::Choose {
                mutant: mutant.id,
                at: at.clone(),
                other: other.to_string(),
            };
            self.add(Genre::MatchArm, &arm, |_, mutant| other(mutant, "false"));
            if !is_chained(guard) {
                self.add(Genre::MatchArmGuard, &at, |_, mutant| {
                    other(mutant, &mutant.replacement)
                });
            }
        } else {
            let at = node.pat.span().byte_range().end;
            self.add(Genre::MatchArm, &arm, |_, mutant| Edit::Insert {
                mutant: mutant.id,
                at,
                text: format!(" if !{}", asked(mutant.id)),
            });
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        let at = node.span().byte_range();
        for pair in node.fields.pairs() {
            let mut field = pair.value().span().byte_range();
            if let Some(comma) = pair.punct() {
                field.end = comma.span().byte_range().end;
            }
            self.add(Genre::StructField, &field, |search, mutant| Edit::Choose {
                mutant: mutant.id,
                at: at.clone(),
                other: [at.start..field.start, field.end..at.end]
                    .map(|part| &search.text[part])
                    .concat(),
            });
        }
        visit::visit_expr_struct(self, node);
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.function(&node.sig, &node.block, |search| {
            visit::visit_item_fn(search, node)
        });
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.function(&node.sig, &node.block, |search| {
            visit::visit_impl_item_fn(search, node)
        });
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        match &node.default {
            Some(block) => self.function(&node.sig, block, |search| {
                visit::visit_trait_item_fn(search, node);
            }),
            None => visit::visit_trait_item_fn(self, node),
        }
    }

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
        self.constant(|search| search.visit_expr(&node.len));
    }

    constant! {
        visit_item_const ItemConst
        visit_item_static ItemStatic
        visit_impl_item_const ImplItemConst
        visit_trait_item_const TraitItemConst
        visit_expr_const ExprConst
        visit_type_array TypeArray
        visit_variant Variant
        visit_generic_argument GenericArgument
    }
}
