//! Errors with a status of their own, so that scripts can tell them apart. What a message says first is
//! the cause; what to do stands on a line below.

use std::fmt;

/// What kind of error ends the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Something failed that has no kind of its own.
    Other,
    /// There is no such domain, device or disk.
    Absent,
    /// It is in use, or in a state that does not allow this; nothing was changed.
    Refused,
    /// There was no answer in time.
    Late,
    /// `check` has found what keeps Spindle from working.
    Unfit,
    /// A Spindle that was looked at does not serve.
    Down,
}

impl FaultKind {
    /// Each with what the manual says of it.
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (
            Self::Other,
            "it failed; the message says why, and what was done",
        ),
        (Self::Absent, "there is no such domain, device or disk"),
        (
            Self::Refused,
            "refused, as something is in use or in a state that does not allow it; nothing was changed",
        ),
        (Self::Late, "no answer in time"),
        (
            Self::Unfit,
            "`check` has found what keeps Spindle from working",
        ),
        (
            Self::Down,
            "a Spindle has ended, hangs, or does not serve yet (`list` and `health`)",
        ),
    ];

    /// The status of the program. 0 is success, 2 is clap's for a command line that is none.
    pub(crate) const fn status(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Absent => 3,
            Self::Refused => 4,
            Self::Late => 5,
            Self::Unfit => 6,
            Self::Down => 7,
        }
    }

    /// An error of this kind.
    pub(crate) fn error(self, message: impl Into<String>) -> anyhow::Error {
        Fault {
            kind: self,
            message: message.into(),
        }
        .into()
    }

    /// The kind of an error.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let mut chain = error.chain();
        let fault = chain.find_map(|cause| cause.downcast_ref::<Fault>());
        fault.map_or(Self::Other, |fault| fault.kind)
    }
}

/// An error with its kind.
#[derive(Debug)]
struct Fault {
    kind: FaultKind,
    message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// What the manual says of the status, a line each.
pub(crate) fn statuses() -> Vec<(u8, &'static str)> {
    let own = FaultKind::ALL.map(|(kind, text)| (kind.status(), text));
    let mut all = vec![(0, "done"), (2, "the command line is none that is known")];
    all.extend(own);
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::noted;
    use anyhow::Context;

    #[test]
    fn the_kind_of_an_error_survives_what_is_added_to_it() {
        let error = FaultKind::Absent.error("no Spindle");
        let error = Err::<(), _>(error)
            .context("cannot look")
            .expect_err("an error");
        assert_eq!(FaultKind::of(&error), FaultKind::Absent);
        assert_eq!(format!("{error:#}"), "cannot look: no Spindle");
        let error = noted(&error, "look again");
        assert_eq!(FaultKind::of(&error), FaultKind::Absent);
        assert_eq!(format!("{error:#}"), "cannot look: no Spindle\nlook again");
        assert_eq!(FaultKind::of(&anyhow::anyhow!("x")), FaultKind::Other);
    }

    #[test]
    fn the_reference_says_what_each_status_means() {
        let page = include_str!("../docs/reference.md");
        for (status, text) in statuses() {
            assert!(page.contains(&format!("| {status} | {text} |")), "{status}");
        }
    }

    #[test]
    fn every_kind_has_a_status_of_its_own() {
        let statuses: Vec<u8> = statuses().into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
