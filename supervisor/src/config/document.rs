//! A TOML document with positions, and the problems found while it is read.
//!
//! A reader asks a [`Section`] for the keys that it knows; whatever else is there is reported
//! when the section has been read. Every question gives `None` after a problem was noted, and
//! the reader goes on with the next key, so that one pass finds everything.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use super::{Problem, Problems};

/// The text, and what was found wrong in it.
struct Document<'d> {
    file: &'d str,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
}

impl Document<'_> {
    fn note(&self, at: usize, key: &str, text: String, hint: Option<String>) {
        let before = &self.text[..at.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            text,
            hint,
        });
    }
}

/// Reads a document by `read`; gives what it gave only if nothing was wrong.
pub(super) fn read<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Problems> {
    let document = Document {
        file,
        text,
        problems: RefCell::default(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        document.note(at, "", error.message().to_owned(), None);
    }
    // What was recovered from a broken text would only give misleading problems.
    let value = if errors.is_empty() {
        let root = Value {
            document: &document,
            key: String::new(),
            span: 0..0,
            value: &DeValue::Table(table.into_inner()),
        };
        root.section(read)
    } else {
        None
    };
    match Problems::from_found(document.problems.take()) {
        Some(problems) => Err(problems),
        None => Ok(value.expect("a reader that gives nothing has noted why")),
    }
}

/// A value, and where it stands.
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    key: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

impl<'d> Value<'d> {
    /// Notes that it is wrong.
    pub(super) fn wrong<T>(&self, text: impl Into<String>) -> Option<T> {
        self.document
            .note(self.span.start, &self.key, text.into(), None);
        None
    }

    /// Notes that it is wrong, and what would be right.
    pub(super) fn wrong_but<T>(
        &self,
        text: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.document
            .note(self.span.start, &self.key, text.into(), Some(hint.into()));
        None
    }

    fn mistyped<T>(&self, expected: &str) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(format!("expected {expected}, found {found}"))
    }

    /// A text without NUL.
    pub(super) fn text(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) if text.contains('\0') => self.wrong("holds a NUL character"),
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => self.mistyped("a text"),
        }
    }

    /// Whether it is a text.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// Whether it is this text.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self.value, DeValue::String(text) if text == word)
    }

    /// A text that `T` reads.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => self.wrong(format!("{error}")),
        }
    }

    /// One of these words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Some(*meaning),
            None => {
                let known: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                self.wrong(format!("`{text}` is none of {}", known.join(", ")))
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.mistyped("true or false"),
        }
    }

    /// A whole number in `range`.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let DeValue::Integer(integer) = self.value else {
            return self.mistyped("a whole number");
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = range.into_inner();
                self.wrong(format!("{integer} is not between {least} and {most}"))
            }
        }
    }

    /// A list, each element by `read`.
    pub(super) fn list<T>(&self, mut read: impl FnMut(&Value<'d>) -> Option<T>) -> Option<Vec<T>> {
        let DeValue::Array(array) = self.value else {
            return self.mistyped("a list");
        };
        let elements = array.iter().enumerate().map(|(index, element)| {
            read(&Value {
                document: self.document,
                key: format!("{}[{index}]", self.key),
                span: element.span(),
                value: element.get_ref(),
            })
        });
        // All are read, whatever the first ones gave.
        let elements: Vec<_> = elements.collect();
        elements.into_iter().collect()
    }

    /// A table of keys that are not known beforehand, each entry by `read`.
    pub(super) fn entries<T>(
        &self,
        mut read: impl FnMut(&str, &Value<'d>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Table(table) = self.value else {
            return self.mistyped("a table");
        };
        let entries = table.iter().map(|(name, value)| {
            read(
                name.get_ref(),
                &Value {
                    document: self.document,
                    key: below(&self.key, name.get_ref()),
                    // A table's own span may lie elsewhere; its name is what a person looks for.
                    span: match value.get_ref() {
                        DeValue::Table(_) => name.span(),
                        _ => value.span(),
                    },
                    value: value.get_ref(),
                },
            )
        });
        let entries: Vec<_> = entries.collect();
        entries.into_iter().collect()
    }

    /// A table of known keys; others are noted as problems after `read`.
    pub(super) fn section<T>(&self, read: impl FnOnce(&Section<'d>) -> Option<T>) -> Option<T> {
        let DeValue::Table(table) = self.value else {
            return self.mistyped("a table");
        };
        let section = Section {
            document: self.document,
            key: self.key.clone(),
            at: self.span.start,
            table,
            known: RefCell::default(),
        };
        let value = read(&section);
        section.note_unknown();
        value
    }
}

/// A table of known keys while it is read.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    key: String,
    at: usize,
    table: &'d DeTable<'d>,
    known: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    /// The value under a key, if there is one.
    pub(super) fn find(&self, name: &'static str) -> Option<Value<'d>> {
        self.known.borrow_mut().push(name);
        let (found, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        Some(Value {
            document: self.document,
            key: below(&self.key, name),
            span: match value.get_ref() {
                DeValue::Table(_) => found.span(),
                _ => value.span(),
            },
            value: value.get_ref(),
        })
    }

    /// The value under a key that must be there.
    pub(super) fn required<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Value<'d>) -> Option<T>,
    ) -> Option<T> {
        match self.find(name) {
            Some(value) => read(&value),
            None => {
                self.document
                    .note(self.at, &below(&self.key, name), "missing".to_owned(), None);
                None
            }
        }
    }

    /// The value under a key, or else `default`.
    pub(super) fn optional<T>(
        &self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Value<'d>) -> Option<T>,
    ) -> Option<T> {
        match self.find(name) {
            Some(value) => read(&value),
            None => Some(default),
        }
    }

    fn note_unknown(&self) {
        let known = self.known.borrow();
        for (name, _) in self.table {
            if !known.iter().any(|known| name.get_ref() == *known) {
                let hint = format!("known here: {}", known.join(", "));
                let hint = (!known.is_empty()).then_some(hint);
                let key = below(&self.key, name.get_ref());
                self.document
                    .note(name.span().start, &key, "unknown key".to_owned(), hint);
            }
        }
    }
}

/// The key of `name` in the table under `key`, as TOML writes it.
fn below(key: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let name = if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    };
    if key.is_empty() {
        name
    } else {
        format!("{key}.{name}")
    }
}
