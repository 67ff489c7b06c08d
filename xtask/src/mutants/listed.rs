//! `xtask/mutants.txt`: the survivors that are accepted, each with the reason.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The list. A line is a mutant as cargo-mutants prints it, without line and column, which every
/// change above it would move; below it, indented, is the reason. A mutant that stands in it twice is
/// accepted in two places.
pub(super) struct Listed {
    mutants: Vec<String>,
}

impl Listed {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a mutant has no reason.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut mutants: Vec<String> = Vec::new();
        let mut without: Option<&str> = None;
        let is_text = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        for line in text.lines().filter(is_text) {
            if line.starts_with(char::is_whitespace) {
                if mutants.is_empty() {
                    bail!("a reason without a mutant: {}", line.trim());
                }
                without = None;
                continue;
            }
            if let Some(mutant) = without {
                bail!("no reason for: {mutant}");
            }
            without = Some(line);
            mutants.push(line.trim_end().to_string());
        }
        if let Some(mutant) = without {
            bail!("no reason for: {mutant}");
        }
        Ok(Self { mutants })
    }

    /// Of these survivors, those that are not in the list, and of the list's entries below
    /// `folder`, those that did not survive.
    pub(super) fn compare<'a>(
        &'a self,
        folder: &str,
        survived: &'a [String],
    ) -> (Vec<&'a str>, Vec<&'a str>) {
        let start = format!("{folder}/");
        let of_folder = |mutant: &&String| mutant.starts_with(&start);
        let mut left: Vec<&str> = self
            .mutants
            .iter()
            .filter(of_folder)
            .map(String::as_str)
            .collect();
        let mut unlisted = Vec::new();
        for mutant in survived {
            let name = without_place(mutant);
            match left.iter().position(|listed| *listed == name) {
                Some(at) => {
                    left.remove(at);
                }
                None => unlisted.push(mutant.as_str()),
            }
        }
        (unlisted, left)
    }
}

/// A mutant's name without line and column: `a.rs:1:2: replace ...` is `a.rs: replace ...`.
pub(super) fn without_place(mutant: &str) -> String {
    let Some((place, what)) = mutant.split_once(": ") else {
        return mutant.to_string();
    };
    let mut file = place;
    while let Some((before, number)) = file.rsplit_once(':')
        && number.parse::<u32>().is_ok()
    {
        file = before;
    }
    format!("{file}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A comment.
drivers/xen/src/a.rs: replace < with <= in f
    Equivalent: the two are never equal.
drivers/xen/src/a.rs: replace g -> u8 with 0

    Only a log line
    depends on it.
ctl/src/b.rs: replace < with <= in f
    As above.
";

    #[test]
    fn a_survivor_is_known_wherever_it_moved_to() -> Result<()> {
        let listed = Listed::parse(TEXT)?;
        let survived = ["drivers/xen/src/a.rs:7:12: replace < with <= in f".to_string()];
        let (unlisted, left) = listed.compare("drivers/xen", &survived);
        assert!(unlisted.is_empty());
        assert_eq!(left, ["drivers/xen/src/a.rs: replace g -> u8 with 0"]);
        Ok(())
    }

    #[test]
    fn one_line_accepts_one_survivor() -> Result<()> {
        let listed = Listed::parse(TEXT)?;
        let survived = [
            "drivers/xen/src/a.rs:7:12: replace < with <= in f".to_string(),
            "drivers/xen/src/a.rs:9:12: replace < with <= in f".to_string(),
            "drivers/xen/src/a.rs:9:12: replace < with == in f".to_string(),
        ];
        let (unlisted, _) = listed.compare("drivers/xen", &survived);
        assert_eq!(unlisted, [survived[1].as_str(), survived[2].as_str()]);
        Ok(())
    }

    #[test]
    fn a_mutant_without_a_reason_is_refused() {
        assert!(Listed::parse("a.rs: replace f\nb.rs: replace g\n    Why.\n").is_err());
        assert!(Listed::parse("a.rs: replace f\n").is_err());
        assert!(Listed::parse("    Why.\n").is_err());
    }
}
