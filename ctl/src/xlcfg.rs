//! `xl` configurations: read as far as `spindlectl` has a say in them, and written again. What it
//! does not know passes through as it stands.

use anyhow::{Context, Result, bail, ensure};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    key: String,
    /// The value as it was written.
    raw: String,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    List(Vec<String>),
}

/// A configuration: settings in their order. A later one of the same name wins, as in xl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct XlConfig(Vec<Setting>);

impl XlConfig {
    /// Reads `NAME = VALUE` lines: numbers, strings in either quotes, lists of these over any
    /// number of lines, comments from `#` on.
    ///
    /// # Errors
    /// With the line, at the first thing that is none of these.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut config = Self::default();
        let mut rest = Scanner { text, at: 0 };
        loop {
            rest.skip_lines();
            if rest.peek().is_none() {
                return Ok(config);
            }
            let line = rest.line();
            let setting = rest.setting().with_context(|| format!("line {line}"))?;
            config.0.retain(|old| old.key != setting.key);
            config.0.push(setting);
        }
    }

    /// The value of a setting that is a string or a number.
    ///
    /// # Errors
    /// If it is a list.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.find(key) {
            Some(Value::List(_)) => bail!("{key} is a list, but must be a string or a number"),
            Some(Value::Text(text)) => Ok(Some(text)),
            None => Ok(None),
        }
    }

    /// The value of a setting that is a list; empty if there is none.
    ///
    /// # Errors
    /// If it is no list.
    pub(crate) fn list(&self, key: &str) -> Result<&[String]> {
        match self.find(key) {
            Some(Value::Text(_)) => bail!("{key} must be a list: {key} = [ \"...\" ]"),
            Some(Value::List(list)) => Ok(list),
            None => Ok(&[]),
        }
    }

    /// Sets a string.
    ///
    /// # Errors
    /// If it cannot be written between quotes.
    pub(crate) fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
        let raw = quote(text)?;
        self.put(key, raw, Value::Text(text.into()));
        Ok(())
    }

    /// Sets a number.
    pub(crate) fn set_number(&mut self, key: &str, number: u64) {
        self.put(key, number.to_string(), Value::Text(number.to_string()));
    }

    /// Sets a list of strings.
    ///
    /// # Errors
    /// If one cannot be written between quotes.
    pub(crate) fn set_list(&mut self, key: &str, list: &[String]) -> Result<()> {
        let quoted: Result<Vec<String>> = list.iter().map(|item| quote(item)).collect();
        let raw = format!("[ {} ]", quoted?.join(", "));
        self.put(key, raw, Value::List(list.to_vec()));
        Ok(())
    }

    /// Takes a setting out.
    pub(crate) fn remove(&mut self, key: &str) {
        self.0.retain(|setting| setting.key != key);
    }

    /// Whether there is such a setting.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &str) -> Option<&Value> {
        let setting = self.0.iter().find(|setting| setting.key == key)?;
        Some(&setting.value)
    }

    fn put(&mut self, key: &str, raw: String, value: Value) {
        let new = Setting {
            key: key.into(),
            raw,
            value,
        };
        match self.0.iter_mut().find(|setting| setting.key == key) {
            Some(setting) => *setting = new,
            None => self.0.push(new),
        }
    }
}

/// As xl reads it.
impl std::fmt::Display for XlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for setting in &self.0 {
            writeln!(f, "{} = {}", setting.key, setting.raw)?;
        }
        Ok(())
    }
}

fn quote(text: &str) -> Result<String> {
    let bad = |c: char| c == '"' || c == '\\' || c.is_control();
    ensure!(
        !text.contains(bad),
        "{text:?} cannot stand in a configuration: leave out quotes and backslashes"
    );
    Ok(format!("\"{text}\""))
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t' || c == '\r');
        if self.peek() == Some('#') {
            self.take_while(|c| c != '\n');
        }
    }

    fn skip_lines(&mut self) {
        loop {
            self.skip_blanks();
            if !self.take('\n') && !self.take(';') {
                return;
            }
        }
    }

    fn setting(&mut self) -> Result<Setting> {
        let key = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        ensure!(!key.is_empty(), "expected the name of a setting");
        self.skip_blanks();
        ensure!(self.take('='), "expected `=` after {key}");
        self.skip_blanks();
        let start = self.at;
        let value = if self.take('[') {
            Value::List(self.items()?)
        } else {
            Value::Text(self.scalar()?)
        };
        let raw = self.text[start..self.at].to_string();
        self.skip_blanks();
        ensure!(
            matches!(self.peek(), None | Some('\n' | ';')),
            "more after the value of {key}"
        );
        Ok(Setting {
            key: key.into(),
            raw,
            value,
        })
    }

    fn items(&mut self) -> Result<Vec<String>> {
        let mut items = Vec::new();
        loop {
            self.skip_lines();
            if self.take(']') {
                return Ok(items);
            }
            items.push(self.scalar()?);
            self.skip_lines();
            if !self.take(',') {
                ensure!(self.peek() == Some(']'), "expected `,` or `]` in a list");
            }
        }
    }

    fn scalar(&mut self) -> Result<String> {
        for quote in ['"', '\''] {
            if self.take(quote) {
                let text = self.take_while(|c| c != quote && c != '\n' && c != '\\');
                ensure!(
                    self.take(quote),
                    "a string must end on its line and have no backslash"
                );
                return Ok(text.into());
            }
        }
        let number = self.take_while(|c| c.is_ascii_alphanumeric());
        let plain = number.starts_with(|c: char| c.is_ascii_digit());
        ensure!(plain, "expected a number, a string in quotes or a list");
        Ok(number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# a comment\nname = \"spindle\"   # its name\nmemory=64;vcpus = 3\n\
        pci = [ '0000:01:00.0',\n  # another\n  \"0000:02:00.0\",\n]\nvga='none'\n";

    #[test]
    fn settings_are_read_changed_and_written_again() -> Result<()> {
        let mut config = XlConfig::parse(TEXT)?;
        assert_eq!(config.text("name")?, Some("spindle"));
        assert_eq!(config.text("memory")?, Some("64"));
        assert_eq!(config.list("pci")?, ["0000:01:00.0", "0000:02:00.0"]);
        assert!(config.list("disk")?.is_empty());
        assert!(config.text("pci").is_err() && config.list("name").is_err());
        config.set_number("memory", 128);
        config.set_list("iomem", &["febf8,4@e0000".into()])?;
        config.remove("pci");
        let expected = "name = \"spindle\"\nmemory = 128\nvcpus = 3\nvga = 'none'\n\
                        iomem = [ \"febf8,4@e0000\" ]\n";
        assert_eq!(config.to_string(), expected);
        Ok(())
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_line() {
        for (text, line) in [
            ("a=1\nb", "line 2"),
            ("= 1", "line 1"),
            ("\n\na=[ 'x' 'y' ]", "line 3"),
            ("a=\"open", "line 1"),
            ("a='x\\'", "line 1"),
            ("a=1 2", "line 1"),
            ("a += 1", "line 1"),
            ("a = [ 1,", "line 1"),
        ] {
            let error = XlConfig::parse(text).expect_err(text).to_string();
            assert_eq!(error, line, "{text}");
        }
    }

    #[test]
    fn a_text_that_would_end_its_quotes_is_refused() {
        let mut config = XlConfig::default();
        for bad in ["a\"b", "a\\", "a\nb"] {
            assert!(config.set_text("cmdline", bad).is_err());
        }
        assert_eq!(config, XlConfig::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_was_read_reads_the_same(text in "[a-b='\"\\[\\],;#\n 1é]{0,40}") {
            if let Ok(config) = XlConfig::parse(&text) {
                let again = XlConfig::parse(&config.to_string()).expect("what was written");
                let values = |config: &XlConfig| -> Vec<_> {
                    config.0.iter().map(|s| (s.key.clone(), s.value.clone())).collect()
                };
                prop_assert_eq!(values(&again), values(&config));
            }
        }
    }
}
