//! Tables that fit where they are printed: into a terminal with lines between, and without the last
//! columns where it is too narrow, which are named below; anywhere else plain, whole, and two blanks
//! between columns.

use std::io::{self, IsTerminal};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table before it is known how wide it may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sheet {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
    /// How many columns are kept in any case.
    least: usize,
}

/// Where a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paper {
    /// How many characters a line holds; `None` for any number.
    pub(crate) width: Option<usize>,
    /// Whether lines are drawn between the columns.
    pub(crate) lines: bool,
}

impl Paper {
    /// What a file or a pipe takes.
    pub(crate) const PLAIN: Self = Self {
        width: None,
        lines: false,
    };

    /// Standard output, with lines of any length if `wide`.
    pub(crate) fn of_output(wide: bool) -> Self {
        if !io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let size = rustix::termios::tcgetwinsize(io::stdout());
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        let utf8 = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty());
        Self {
            // A terminal that does not say is as wide as they have always been.
            width: (!wide).then_some(if columns == 0 { 80 } else { columns }),
            lines: utf8.is_some_and(|locale| locale.to_ascii_lowercase().contains("utf")),
        }
    }
}

impl Sheet {
    /// One with these headings, of which the first `least` columns are always shown.
    pub(crate) fn new<'a>(headings: impl IntoIterator<Item = &'a str>, least: usize) -> Self {
        Self {
            headings: headings.into_iter().map(str::to_string).collect(),
            rows: Vec::new(),
            least,
        }
    }

    /// Adds a row; cells that are missing are empty.
    pub(crate) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The headings.
    pub(crate) fn headings(&self) -> &[String] {
        &self.headings
    }

    /// Orders the rows by a column: numbers by their size, whatever their unit, texts by their letters.
    pub(crate) fn sort(&mut self, column: usize, falling: bool) {
        let key = |row: &Vec<String>| {
            let cell = row.get(column).cloned().unwrap_or_default();
            (weight(&cell), cell)
        };
        self.rows.sort_by(|one, other| {
            let ((one, name), (other, other_name)) = (key(one), key(other));
            let order = one.total_cmp(&other).then_with(|| name.cmp(&other_name));
            if falling { order.reverse() } else { order }
        });
    }

    /// The rows.
    pub(crate) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The cell of a row in the column of this heading, for tests.
    #[cfg(test)]
    pub(crate) fn cell(&self, row: usize, heading: &str) -> &str {
        let column = self.headings.iter().position(|other| other == heading);
        &self.rows[row][column.unwrap_or_else(|| panic!("no column {heading}"))]
    }

    /// As text, with a line on what was left out: first the domain where all rows have the same, then the
    /// last columns.
    pub(crate) fn render(&self, paper: Paper) -> String {
        let width = paper.width.unwrap_or(usize::MAX);
        let mut columns: Vec<usize> = (0..self.headings.len()).collect();
        let mut text = self.draw(&columns, paper.lines);
        let mut left = Vec::new();
        while widest(&text) > width && columns.len() > self.least.max(1) {
            let column = if left.is_empty() && self.is_constant(0) {
                Some(columns.remove(0))
            } else {
                columns.pop()
            };
            left.extend(column);
            text = self.draw(&columns, paper.lines);
        }
        let cut = text.lines().any(|line| line.chars().count() > width);
        if cut {
            let lines = text.lines().map(|line| shorten(line, width));
            text = lines.collect::<Vec<_>>().join("\n");
        }
        if !left.is_empty() {
            left.sort_unstable();
            let names: Vec<&str> = left.iter().map(|&at| &*self.headings[at]).collect();
            let note = wrap("left out, see --wide: ", &names.join(", "), width);
            text += &format!("\n{note}");
        } else if cut {
            text += "\nlines that end with ~ are cut, see --wide";
        }
        text
    }

    /// Whether all rows say the same in a column, and there are others to tell them apart by.
    fn is_constant(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().map(|row| row.get(column));
        let first = cells.next();
        self.headings[column] == "domain" && cells.all(|cell| Some(cell) == first)
    }

    /// Some columns.
    fn draw(&self, columns: &[usize], lines: bool) -> String {
        let mut table = Table::new();
        table
            .load_preset(if lines {
                presets::UTF8_HORIZONTAL_ONLY
            } else {
                presets::NOTHING
            })
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|&column| &self.headings[column]));
        for row in &self.rows {
            let cell = |&column: &usize| row.get(column).cloned().unwrap_or_default();
            table.add_row(columns.iter().map(cell));
        }
        for (drawn, &number) in table.column_iter_mut().zip(columns) {
            let cells = self.rows.iter().filter_map(|row| row.get(number));
            if is_numeric(cells) {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
            drawn.set_padding((0, if lines { 1 } else { 2 }));
        }
        let text = table.to_string();
        let lines = text.lines().map(|line| line.trim_end_matches([' ', '╌']));
        let lines = lines.filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn widest(text: &str) -> usize {
    let widths = text.lines().map(|line| line.chars().count());
    widths.max().unwrap_or(0)
}

/// Whether all cells that say something begin with a digit: such are aligned by their ends.
fn is_numeric<'a>(cells: impl Iterator<Item = &'a String>) -> bool {
    let mut cells = cells
        .filter(|cell| !cell.is_empty() && *cell != "-")
        .peekable();
    cells.peek().is_some() && cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()))
}

/// What a cell is worth: its number in the least of its units; less than any number if it has none.
fn weight(cell: &str) -> f64 {
    let end = cell.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = cell.split_at(end.unwrap_or(cell.len()));
    let Ok(number) = number.parse::<f64>() else {
        // As `> 8 s`, which is more than can be said.
        return if cell.starts_with('>') {
            f64::INFINITY
        } else {
            -1.0
        };
    };
    number
        * match unit.trim() {
            "KiB" | "ms" => 1024.0,
            "MiB" | "s" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => 1.0,
        }
}

/// The start of a line that is too long.
fn shorten(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_string();
    }
    let start = line.chars().take(width.saturating_sub(1));
    start.chain(['~']).collect()
}

/// A text in lines of at most `width` characters, as far as its words let that be. The first begins with
/// `lead`, the others with as many blanks.
pub(crate) fn wrap(lead: &str, text: &str, width: usize) -> String {
    let start = lead.chars().count();
    let (mut wrapped, mut used) = (lead.to_string(), start);
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > start && used + 1 + length > width {
            wrapped += &format!("\n{:start$}", "");
            used = start;
        } else if used > start {
            wrapped.push(' ');
            used += 1;
        }
        wrapped += word;
        used += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let mut sheet = Sheet::new(["disk", "reads", "about"], 1);
        sheet.add(["nvme0n1", "7", "A long description"].map(str::to_string));
        sheet.add(["vda", "1234", ""].map(str::to_string));
        sheet
    }

    fn on(width: usize, lines: bool) -> String {
        sheet().render(Paper {
            width: Some(width),
            lines,
        })
    }

    #[test]
    fn a_pipe_gets_all_of_it_plain() {
        let expected = "disk     reads  about\n\
                        nvme0n1      7  A long description\n\
                        vda       1234";
        assert_eq!(sheet().render(Paper::PLAIN), expected);
    }

    #[test]
    fn a_terminal_gets_the_columns_that_fit_and_the_names_of_the_others() {
        for (width, lines, left) in [
            (40, true, None),
            (30, true, Some("about")),
            (33, false, Some("about")),
        ] {
            let text = on(width, lines);
            assert!(
                text.lines().all(|line| line.chars().count() <= width),
                "{text}"
            );
            assert_eq!(text.contains('═'), lines, "{text}");
            let note = left.map(|left| format!("left out, see --wide: {left}"));
            assert_eq!(
                text.lines().last().filter(|l| l.starts_with("left")),
                note.as_deref()
            );
        }
        let narrow = on(12, false);
        assert!(
            narrow.starts_with("disk\nnvme0n1\nvda\nleft out,"),
            "{narrow}"
        );
    }

    #[test]
    fn the_domain_is_left_out_first_where_there_is_one() {
        let mut sheet = Sheet::new(["domain", "disk", "reads"], 1);
        sheet.add(["spindle", "xvda", "7"].map(str::to_string));
        sheet.add(["spindle", "xvdb", "8"].map(str::to_string));
        let paper = Paper {
            width: Some(22),
            lines: false,
        };
        let narrow = Paper {
            width: Some(13),
            ..paper
        };
        assert!(sheet.render(paper).starts_with("domain "), "it fits");
        let text = sheet.render(narrow);
        assert!(text.starts_with("disk  reads\n"), "{text}");
        assert!(
            text.contains("left out") && text.ends_with("domain"),
            "{text}"
        );
        sheet.add(["other", "xvda", "9"].map(str::to_string));
        assert!(sheet.render(narrow).starts_with("domain "));
    }

    #[test]
    fn what_no_column_can_be_left_out_for_is_cut_and_said_to_be() {
        let text = on(4, false);
        assert!(text.starts_with("disk\nnvm~\nvda\n"), "{text}");
        let mut one = Sheet::new(["name"], 1);
        one.add(["longer".to_string()]);
        let text = one.render(Paper {
            width: Some(5),
            lines: false,
        });
        assert_eq!(
            text,
            "name\nlong~\nlines that end with ~ are cut, see --wide"
        );
    }

    #[test]
    fn rows_are_ordered_by_what_their_cells_are_worth() {
        let mut sheet = Sheet::new(["what"], 1);
        let cells = [
            "900 KiB", "1.2 MiB", "-", "12 B", "> 8 s", "3 GiB", "1023 B",
        ];
        cells
            .into_iter()
            .for_each(|cell| sheet.add([cell.to_string()]));
        sheet.sort(0, true);
        let order: Vec<&str> = sheet.rows().iter().map(|row| row[0].as_str()).collect();
        assert_eq!(
            order,
            [
                "> 8 s", "3 GiB", "1.2 MiB", "900 KiB", "1023 B", "12 B", "-"
            ]
        );
        let mut names = Sheet::new(["what"], 1);
        for name in ["b", "c", "a"] {
            names.add([name.to_string()]);
        }
        names.sort(0, false);
        assert_eq!(names.rows(), [["a"], ["b"], ["c"]]);
    }

    #[test]
    fn words_go_to_the_next_line_where_they_do_not_fit() {
        assert_eq!(wrap("- ", "one two three", 9), "- one two\n  three");
        assert_eq!(wrap("", "enormous", 3), "enormous");
    }
}
