//! A comparison that an example of `spindle-testkit` plays in virtual time: how its marks become a
//! record, a page and, where there is one, a plot.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::freshness::{self, Age};
use crate::rig::Mark;
use crate::{root, ui};

type Draw = fn(&[Mark], &Path) -> Result<()>;

/// Such a comparison.
pub(super) struct Played {
    /// The example's name, also that of its marks and files.
    pub(super) name: &'static str,
    /// What is played, for the line that says so.
    pub(super) what: &'static str,
    /// The files and folders that the figures depend on.
    pub(super) sources: &'static [&'static str],
    /// Makes the page of a record, with the line that says which version it is of.
    pub(super) page: fn(&[Mark], &str) -> Result<String, fmt::Error>,
    /// Draws the plot of a record into a file.
    pub(super) draw: Option<Draw>,
}

impl Played {
    /// Plays it, and writes record, plot and page into `folder`; prints the page.
    pub(super) fn run(&self, folder: &Path) -> Result<()> {
        let name = self.name;
        let sh = Shell::new()?;
        sh.change_dir(root());
        // Before it takes its time: the sources may change meanwhile.
        let version = freshness::version_of(self.sources);
        let circumstances = Mark::new("circumstances").with("spindle", version);
        ui::step("bench", &format!("{} in virtual time", self.what));
        let output = cmd!(
            sh,
            "cargo run --quiet --release -p spindle-testkit --example {name}"
        )
        .quiet()
        .read()
        .with_context(|| format!("{} could not be played", self.what))?;
        let lines = output.lines().filter_map(Mark::parse);
        let mut record: Vec<Mark> = lines.filter(|mark| mark.name == name).collect();
        ensure!(!record.is_empty(), "the example {name} says nothing");
        record.insert(0, circumstances);
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let text: String = record.iter().map(|mark| format!("{mark}\n")).collect();
        write_file(folder, &format!("{name}.txt"), &text)?;
        if let Some(draw) = self.draw {
            draw(&record, &folder.join(name).with_extension("svg"))?;
        }
        let version = version_line(&record, |version| Age::of_paths(version, self.sources));
        let page = (self.page)(&record, &version)?;
        println!("{page}");
        write_file(folder, &format!("{name}.md"), &page)
    }
}

/// What a page says of the version that its figures are of: a line.
fn version_line(record: &[Mark], age: impl Fn(&str) -> Age) -> String {
    let marks = record.iter().filter(|mark| mark.name == "circumstances");
    let versions = marks.map(|mark| mark.get("spindle"));
    versions
        .map(|version| format!("- Spindle {version}{}\n", age(version).note()))
        .collect()
}

fn write_file(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
impl Played {
    /// Checks that what the repository has is what the command writes; but the age, which changes
    /// by itself.
    pub(super) fn check_results(&self) {
        let folder = root().join("xtask/results").join(self.name);
        let read = |ending: &str| {
            fs::read_to_string(folder.with_extension(ending)).expect("a result is there")
        };
        let text = read("txt");
        let record: Vec<Mark> = text.lines().filter_map(Mark::parse).collect();
        let version = version_line(&record, |_| Age::Current);
        let page = (self.page)(&record, &version).expect("written");
        let kept = read("md");
        assert_eq!(freshness::without(&kept), freshness::without(&page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_of_which_version_it_is_and_whether_that_is_old() {
        let record = [Mark::new("circumstances").with("spindle", "abc")];
        let line = version_line(&record, |_| Age::Stale);
        assert!(line.starts_with("- Spindle abc (**stale**"), "{line}");
    }
}
