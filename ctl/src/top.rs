//! `top` on a terminal: the rates of disks, of groups and of cores on a screen of their own, ordered by any column, with
//! keys. What is shown and what a key does is apart from the terminal, so that it is tested without one.

use std::io::{self, Write as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::sheet::{Paper, Sheet};

/// What the last line says.
const KEYS: &str = "q quit  < > column  r reverse  d disks  g groups  c cores  b all";

/// Which tables are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Disks,
    /// Groups, and disks with several guests.
    Groups,
    Cores,
    All,
}

impl Shown {
    /// The table that comes first, and that the order is about.
    fn first(self) -> usize {
        match self {
            Self::Disks | Self::All => 0,
            Self::Groups => 1,
            Self::Cores => 2,
        }
    }
}

/// What a user has chosen to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopView {
    shown: Shown,
    /// The column that rows are ordered by, of the table that is shown first.
    column: usize,
    falling: bool,
}

impl TopView {
    /// One that begins with the column of this heading, with or without `/s`.
    ///
    /// # Errors
    /// If there is no such column.
    pub(crate) fn new(sheets: &[Sheet; 3], heading: Option<&str>) -> Result<Self> {
        let heading = heading.unwrap_or("reads");
        for (shown, sheet) in [Shown::All, Shown::Groups, Shown::Cores]
            .into_iter()
            .zip(sheets)
        {
            let is = |other: &String| other == heading || other.strip_suffix("/s") == Some(heading);
            if let Some(column) = sheet.headings().iter().position(is) {
                return Ok(Self {
                    shown,
                    column,
                    falling: true,
                });
            }
        }
        let names = sheets.iter().flat_map(Sheet::headings);
        let names: Vec<&str> = names.map(String::as_str).collect();
        bail!(
            "there is no column {heading}\nthere are: {}",
            names.join(", ")
        )
    }

    /// Does what a key is for; false if the user wants to go.
    fn key(&mut self, key: u8, sheets: &[Sheet; 3]) -> bool {
        let columns = self.first(sheets).headings().len().max(1);
        match key {
            // As in raw mode Ctrl-C is a key like others.
            b'q' | 3 => return false,
            b'>' | b'.' | b's' => self.column = (self.column + 1) % columns,
            b'<' | b',' => self.column = (self.column + columns - 1) % columns,
            b'r' => self.falling = !self.falling,
            b'd' => self.show(Shown::Disks),
            b'g' => self.show(Shown::Groups),
            b'c' => self.show(Shown::Cores),
            b'b' => self.show(Shown::All),
            _ => {}
        }
        true
    }

    fn show(&mut self, shown: Shown) {
        // Each table has columns of its own.
        if self.shown.first() != shown.first() {
            self.column = 0;
        }
        self.shown = shown;
    }

    /// The table that the order is about.
    fn first<'a>(&self, sheets: &'a [Sheet; 3]) -> &'a Sheet {
        &sheets[self.shown.first()]
    }

    /// The tables as they are chosen, one below the other.
    pub(crate) fn order(&self, sheets: &[Sheet; 3]) -> Vec<Sheet> {
        let mut first = self.first(sheets).clone();
        first.sort(self.column, self.falling);
        let all = self.shown == Shown::All;
        let others = sheets[1..]
            .iter()
            .filter(|sheet| all && !sheet.rows().is_empty());
        [first].into_iter().chain(others.cloned()).collect()
    }

    /// A screen of so many lines and columns, each line cut to it.
    fn frame(&self, sheets: &[Sheet; 3], head: &str, paper: Paper, height: usize) -> String {
        let width = paper.width.unwrap_or(80);
        let by = &self.first(sheets).headings()[self.column];
        let arrow = if self.falling { "falling" } else { "rising" };
        let mut lines = vec![format!("{head}, by {by} ({arrow})")];
        for sheet in self.order(sheets) {
            // What is left out takes one line: the screen is for the rows.
            let rendered = sheet.render(paper);
            let rows = rendered.lines().filter(|line| !line.starts_with("  "));
            lines.extend(rows.map(str::to_string));
        }
        // The last line is for the keys.
        let room = height.saturating_sub(1).max(1);
        if lines.len() > room {
            let more = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("... {more} lines more"));
        }
        lines.resize(room, String::new());
        lines.push(KEYS.to_string());
        let cut = |line: String| line.chars().take(width).collect::<String>();
        let lines: Vec<String> = lines.into_iter().map(cut).collect();
        lines.join("\r\n")
    }
}

/// The time of day by UTC, for the head of a screen or a file.
pub(crate) fn clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs()) % (24 * 60 * 60);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
}

/// The terminal's other screen, with keys as they are pressed; as it was before once this is dropped.
struct Screen(Termios);

impl Screen {
    fn open() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot ask the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).context("cannot set the terminal")?;
        // The other screen, without a cursor (xterm, ECMA-48).
        let screen = Self(before);
        print(b"\x1b[?1049h\x1b[?25l")?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print(b"\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout();
    let done = out.write_all(bytes).and_then(|()| out.flush());
    done.context("cannot print")
}

/// A key that is pressed within this time.
fn key(patience: Duration) -> Result<Option<u8>> {
    let stdin = io::stdin();
    let mut files = [PollFd::new(&stdin, PollFlags::IN)];
    let patience = Timespec::try_from(patience).context("a time")?;
    match poll(&mut files, Some(&patience)) {
        // A change of the terminal's size is a signal, and a reason to draw anew.
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        looked => looked.context("cannot wait for keys")?,
    };
    let mut byte = [0];
    match rustix::io::read(&stdin, &mut byte) {
        // The terminal is gone.
        Ok(0) => Ok(Some(b'q')),
        Ok(_) => Ok(Some(byte[0])),
        Err(rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error).context("cannot read keys"),
    }
}

/// Shows tables until the user has seen enough. `next` gives newer ones, or none as long as there are
/// none.
///
/// # Errors
/// If the terminal or `next` fails.
pub(crate) fn run(
    mut sheets: [Sheet; 3],
    mut view: TopView,
    wide: bool,
    next: &mut dyn FnMut() -> Result<Option<[Sheet; 3]>>,
) -> Result<()> {
    /// How often newer tables are asked for.
    const LOOK: Duration = Duration::from_millis(500);
    let screen = Screen::open()?;
    let mut head = format!("spindlectl top {}, before the first rates", clock());
    let mut asked = Instant::now();
    loop {
        let size = tcgetwinsize(io::stdout()).context("cannot ask the terminal")?;
        let height = usize::from(size.ws_row).max(3);
        let frame = view.frame(&sheets, &head, Paper::of_output(wide), height);
        // To the top; each line is cleared before it is drawn.
        let frame = frame.replace("\r\n", "\r\n\x1b[K");
        print(format!("\x1b[H\x1b[K{frame}").as_bytes())?;
        if let Some(key) = key(LOOK.saturating_sub(asked.elapsed()))?
            && !view.key(key, &sheets)
        {
            break;
        }
        if asked.elapsed() >= LOOK {
            asked = Instant::now();
            if let Some(newer) = next()? {
                sheets = newer;
                head = format!("spindlectl top {}", clock());
            }
        }
    }
    drop(screen);
    Ok(())
}

#[cfg(test)]
mod picture;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::spindle::Spindle;
    use crate::tables;

    /// Two disks, the second with more writes.
    fn sheets() -> [Sheet; 3] {
        let mut host = Fake::serving();
        for (key, value) in [
            ("state", "4"),
            ("dev", "xvdb"),
            ("params", "vda"),
            ("mode", "w"),
        ] {
            host.store(&format!("/local/domain/3/backend/vbd/5/51728/{key}"), value);
        }
        let data = "/local/domain/3/data/spindle";
        let line = "rings=1 rd_req=5 wr_req=900 rd_sect=8 wr_sect=7200";
        host.store(&format!("{data}/stat/5-51728"), line);
        let all = Spindle::all(&mut host).expect("xenstore");
        tables::top(&[], &all, 1.0)
    }

    const PAPER: Paper = Paper {
        width: Some(80),
        lines: false,
    };

    fn order(view: &TopView) -> Vec<String> {
        let sheets = view.order(&sheets());
        let rows = sheets[0].rows().iter();
        rows.map(|row| row[2].clone()).collect()
    }

    #[test]
    fn rows_are_ordered_by_the_column_that_is_asked_for() {
        let by = |name| TopView::new(&sheets(), name).expect("a column");
        assert_eq!(order(&by(None)), ["xvda", "xvdb"]);
        assert_eq!(order(&by(Some("writes"))), ["xvdb", "xvda"]);
        assert_eq!(order(&by(Some("written/s"))), ["xvdb", "xvda"]);
        let cores = by(Some("busy"));
        assert_eq!(cores.order(&sheets()).len(), 1);
        let error = TopView::new(&sheets(), Some("nosuch")).expect_err("none");
        assert!(
            error.to_string().contains("\nthere are: domain, guest"),
            "{error}"
        );
    }

    #[test]
    fn keys_choose_what_is_shown_and_how_it_is_ordered() {
        let sheets = sheets();
        let mut view = TopView::new(&sheets, None).expect("a column");
        assert!(view.key(b'>', &sheets));
        assert_eq!(order(&view), ["xvdb", "xvda"], "by writes");
        assert!(view.key(b'r', &sheets));
        assert_eq!(order(&view), ["xvda", "xvdb"]);
        assert!(view.key(b'<', &sheets) && view.key(b'r', &sheets));
        assert_eq!(view, TopView::new(&sheets, None).expect("a column"));
        assert_eq!(view.order(&sheets).len(), 2);
        assert!(view.key(b'd', &sheets));
        assert_eq!(view.order(&sheets).len(), 1);
        assert!(view.key(b'c', &sheets) && view.key(b'<', &sheets));
        assert!(view.column < sheets[2].headings().len());
        assert!(view.key(b'g', &sheets));
        assert_eq!((view.column, view.order(&sheets).len()), (0, 1));
        assert_eq!(view.first(&sheets).headings()[1], "together");
        let before = view.clone();
        assert!(view.key(b'?', &sheets));
        assert_eq!(view, before);
        assert!(!view.key(b'q', &sheets) && !view.key(3, &sheets));
    }

    #[test]
    fn a_screen_is_as_large_as_the_terminal_and_ends_with_the_keys() {
        let sheets = sheets();
        let view = TopView::new(&sheets, None).expect("a column");
        for height in [3, 6, 30] {
            let frame = view.frame(&sheets, "head", PAPER, height);
            let lines: Vec<&str> = frame.split("\r\n").collect();
            assert_eq!(lines.len(), height, "{frame}");
            assert!(
                lines.iter().all(|line| line.chars().count() <= 80),
                "{frame}"
            );
            assert_eq!(lines[0], "head, by reads/s (falling)");
            assert_eq!(lines[height - 1], KEYS);
            let more = lines[height - 2].contains("lines more");
            assert_eq!(more, height < 30, "{frame}");
        }
    }

    #[test]
    fn the_clock_is_a_time_of_day() {
        let text = clock();
        let parts: Vec<&str> = text.trim_end_matches(" UTC").split(':').collect();
        assert!(
            parts.len() == 3 && parts.iter().all(|part| part.len() == 2),
            "{text}"
        );
    }
}
