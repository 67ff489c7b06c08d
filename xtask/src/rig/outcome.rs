//! How a scenario ended, from what dom0 reported of it.

use anyhow::Error;

use super::channel::Mark;

/// How a scenario ended.
pub(crate) struct Outcome {
    /// Everything dom0 reported while it ran.
    pub(crate) marks: Vec<Mark>,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    /// Of what was reported until the scenario's `end`. A script may say that it fails in a
    /// subshell, and go on.
    pub(super) fn of(marks: Vec<Mark>, end: &Mark) -> Self {
        let failure = match (failure(&marks), end.get("rc")) {
            (Some(why), _) => Some(why.to_string()),
            (None, "0") => None,
            (None, status) => Some(format!("the script ended with status {status}")),
        };
        Self { marks, failure }
    }

    /// The first mark of this name.
    pub(crate) fn mark(&self, name: &str) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.name == name)
    }
}

/// Why the scenario fails, as its script has said first.
fn failure(marks: &[Mark]) -> Option<&str> {
    let said = marks.iter().find(|mark| mark.name == "fail");
    said.map(|mark| mark.get("why"))
}

/// Why something did not come from dom0: what the script said before comes first.
pub(crate) fn why(error: Error, marks: &[Mark]) -> Error {
    match failure(marks) {
        Some(why) => error.context(why.to_string()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn failure_of(marks: &[&str], end: &str) -> Option<String> {
        let parse = |text: &str| Mark::parse(text).expect("a mark");
        Outcome::of(marks.iter().map(|text| parse(text)).collect(), &parse(end)).failure
    }

    #[test]
    fn what_the_script_said_first_is_why_it_failed() {
        let said = ["note text=x", "fail why=\"no disk\"", "fail why=later"];
        assert_eq!(failure_of(&said, "end rc=1").as_deref(), Some("no disk"));
        assert_eq!(failure_of(&said, "end rc=0").as_deref(), Some("no disk"));
        assert_eq!(failure_of(&said[..1], "end rc=0"), None);
        let status = failure_of(&said[..1], "end rc=2");
        assert_eq!(status.as_deref(), Some("the script ended with status 2"));
    }

    #[test]
    fn a_failure_before_dom0_fell_silent_is_kept() {
        let marks = [Mark::parse("fail why=\"no disk\"").expect("a mark")];
        let error = why(anyhow!("dom0 is silent"), &marks);
        assert_eq!(format!("{error:#}"), "no disk: dom0 is silent");
    }
}
