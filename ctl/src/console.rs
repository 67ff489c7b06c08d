//! What a domain has printed, where xenconsoled keeps it. The domain writes it, as much as it likes:
//! only the end is read.

use crate::host::Host;
use crate::tables;

/// Where xenconsoled keeps what domains print, if it is set up to.
const FOLDERS: [&str; 2] = ["/var/log/xen/console", "/var/log/xen"];
/// Bytes of a log that are read, lines of it that are shown, and characters of a line.
const MOST: u64 = 16 << 10;
const LINES: usize = 8;
const WIDTH: usize = 200;

/// How long each log was before a domain ran: earlier domains of the name wrote that part.
pub(crate) type Marks = Vec<(String, u64)>;

/// Where the log of a domain of this name may be.
pub(crate) fn paths(name: &str) -> [String; FOLDERS.len()] {
    FOLDERS.map(|folder| format!("{folder}/guest-{name}.log"))
}

/// Looks how long the logs for domains of this name are.
pub(crate) fn marks(host: &mut impl Host, name: &str) -> Marks {
    let mark = |path: String| {
        // Without one, whatever is there later is new.
        let size = host.size(&path).unwrap_or(0);
        (path, size)
    };
    paths(name).map(mark).into()
}

/// The end of what the domain has printed since, if that is kept anywhere.
pub(crate) fn last_words(host: &mut impl Host, name: &str, marks: &Marks) -> String {
    for (path, size) in marks {
        let Ok(text) = host.tail(path, *size, MOST) else {
            continue;
        };
        let plain = |line: &str| {
            let line = tables::text(line.trim_end());
            match line.char_indices().nth(WIDTH) {
                Some((end, _)) => format!("{}...", &line[..end]),
                None => line,
            }
        };
        let lines: Vec<String> = text.lines().map(plain).collect();
        if lines.is_empty() {
            return format!("it has printed nothing to {path}");
        }
        let from = lines.len().saturating_sub(LINES);
        return format!("the end of {path}:\n  {}", lines[from..].join("\n  "));
    }
    format!(
        "`xl console -t pv {name}` would show why (after --keep), or a console log (start \
         xenconsoled with --log=guest)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const LOG: &str = "/var/log/xen/guest-a.log";

    #[test]
    fn only_the_end_of_a_log_is_read_and_its_lines_are_cut() {
        let mut host = Fake::with_nvme("nvme");
        let marks = marks(&mut host, "a");
        host.put(LOG, &"x".repeat(1 << 20));
        let words = last_words(&mut host, "a", &marks);
        assert!(words.len() < 400, "{}", words.len());
        assert_eq!(host.most_read, MOST);
        host.put(LOG, &"line\n".repeat(1000));
        assert_eq!(
            last_words(&mut host, "a", &marks).matches("line").count(),
            LINES
        );
    }

    #[test]
    fn the_words_of_an_earlier_domain_are_not_those_of_a_new_one() {
        let mut host = Fake::with_nvme("nvme");
        host.put(LOG, "panic of the old one\n");
        let marks = marks(&mut host, "a");
        assert!(last_words(&mut host, "a", &marks).contains("printed nothing"));
        host.put(LOG, "panic of the old one\nnew\n");
        let words = last_words(&mut host, "a", &marks);
        assert!(words.contains("new") && !words.contains("old"), "{words}");
        // Rotated in between.
        host.put(LOG, "begun anew\n");
        assert!(last_words(&mut host, "a", &marks).contains("begun anew"));
    }
}
