//! The Error Information log (NVM Express Base 2.0, 5.16.1.2).

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::NvmeAnswer;
use super::fields::number;

/// Bytes of an entry.
pub(super) const BYTES: usize = 64;

/// What a status means: type and code, as `figure 93` and those after it of the specification have them.
const STATUSES: [(u128, &str); 24] = [
    (0x000, "Successful Completion"),
    (0x001, "Invalid Command Opcode"),
    (0x002, "Invalid Field in Command"),
    (0x004, "Data Transfer Error"),
    (0x005, "Commands Aborted due to Power Loss Notification"),
    (0x006, "Internal Error"),
    (0x007, "Command Abort Requested"),
    (0x008, "Command Aborted due to SQ Deletion"),
    (0x00b, "Invalid Namespace or Format"),
    (0x020, "Namespace is Write Protected"),
    (0x021, "Command Interrupted"),
    (0x080, "LBA Out of Range"),
    (0x081, "Capacity Exceeded"),
    (0x082, "Namespace Not Ready"),
    (0x084, "Format In Progress"),
    (0x101, "Invalid Queue Identifier"),
    (0x102, "Invalid Queue Size"),
    (0x109, "Invalid Log Page"),
    (0x182, "Attempted Write to Read Only Range"),
    (0x280, "Write Fault"),
    (0x281, "Unrecovered Read Error"),
    (0x282, "End-to-end Guard Check Error"),
    (0x285, "Compare Failure"),
    (0x286, "Access Denied"),
];

/// The entries of this controller's log, without those that hold nothing.
pub(super) fn decode(name: &str, page: &[u8]) -> NvmeAnswer {
    const LINE: &str = ".................";
    let entries = page.chunks_exact(BYTES);
    let mut text = format!(
        "Error Log Entries for device:{name} entries:{}\n{LINE}\n",
        entries.len()
    );
    let mut all = Vec::new();
    for (at, entry) in entries.enumerate() {
        let get = |at, len| number(entry, at, len);
        if get(0, 8) == 0 {
            continue;
        }
        let status = get(12, 2);
        let (field, phase) = (status >> 1, status & 1);
        let known = STATUSES.iter().find(|(code, _)| *code == field & 0x7ff);
        let meaning = known.map_or("no name", |(_, meaning)| meaning);
        // Names, and what JSON calls them where that differs.
        let fields = [
            ("error_count", "error_count", get(0, 8), String::new()),
            ("sqid", "sqid", get(8, 2), String::new()),
            ("cmdid", "cmdid", get(10, 2), format!("{:#x}", get(10, 2))),
            (
                "status_field",
                "status_field",
                field,
                format!("{field:#x} ({meaning})"),
            ),
            ("phase_tag", "phase_tag", phase, format!("{phase:#x}")),
            (
                "parm_err_loc",
                "parm_error_location",
                get(14, 2),
                format!("{:#x}", get(14, 2)),
            ),
            ("lba", "lba", get(16, 8), format!("{:#x}", get(16, 8))),
            ("nsid", "nsid", get(24, 4), format!("{:#x}", get(24, 4))),
            ("vs", "vs", get(28, 1), String::new()),
            ("trtype", "trtype", get(29, 1), String::new()),
            ("csi", "csi", get(30, 1), String::new()),
            ("opcode", "opcode", get(31, 1), format!("{:#x}", get(31, 1))),
            ("cs", "cs", get(32, 8), format!("{:#x}", get(32, 8))),
            (
                "trtype_spec_info",
                "trtype_spec_info",
                get(40, 2),
                format!("{:#x}", get(40, 2)),
            ),
        ];
        let _ = writeln!(text, " Entry[{at:2}]\n{LINE}");
        for (label, _, value, shown) in &fields {
            let shown = if shown.is_empty() {
                value.to_string()
            } else {
                shown.clone()
            };
            let _ = writeln!(text, "{label:16}: {shown}");
        }
        let _ = writeln!(text, "{LINE}");
        let named = fields
            .iter()
            .map(|(_, key, value, _)| (key.to_string(), json!(*value as u64)));
        all.push(Value::Object(named.collect()));
    }
    if all.is_empty() {
        text += "no error is recorded";
    }
    NvmeAnswer {
        text: text.trim_end().into(),
        json: json!({ "errors": all }),
    }
}
