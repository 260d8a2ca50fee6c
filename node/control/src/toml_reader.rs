//! Reads a TOML table field by field, collecting errors instead of stopping at the first.
//!
//! Knows nothing of qnat's resources: a [`Reader`] hands out typed fields of one table, remembers which were asked for,
//! and reports the rest as unknown. Every field that it sees is noted with its line, so that later checks can point to it.
//! Used by `config` only.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: String,
    /// The line, from 1, if it can be told.
    pub line: Option<u32>,
    /// The field: `kind.name.field`.
    pub path: String,
    /// Its value, shortened; empty if it is missing.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.path)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

/// What all readers of a file share: where lines begin, the errors, and the line of each field.
pub(crate) struct Source<'a> {
    file: &'a str,
    line_starts: Vec<usize>,
    lines: BTreeMap<String, u32>,
    pub(crate) errors: Vec<ConfigError>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a str, text: &str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, line_starts, lines: BTreeMap::new(), errors: Vec::new() }
    }

    /// The line, from 1, of a byte offset.
    pub(crate) fn line_at(&self, offset: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|&start| start <= offset)).unwrap_or(u32::MAX)
    }

    /// The line of a field, or of the closest table around it that the file has.
    pub(crate) fn line_of(&self, path: &str) -> Option<u32> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    pub(crate) fn error(&mut self, line: Option<u32>, path: &str, value: &str, problem: &str, remedy: &str) {
        self.errors.push(ConfigError {
            file: self.file.into(),
            line,
            path: path.into(),
            value: value.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }
}

/// One table of the file.
pub(crate) struct Reader<'t, 'i> {
    table: &'t DeTable<'i>,
    path: String,
    line: u32,
    asked: Vec<&'static str>,
}

impl<'t, 'i> Reader<'t, 'i> {
    pub(crate) fn new(source: &mut Source<'_>, table: &'t DeTable<'i>, path: String, offset: usize) -> Self {
        let line = source.line_at(offset);
        Self { table, path, line, asked: Vec::new() }
    }

    /// The full path of a field of this table.
    pub(crate) fn at(&self, field: &str) -> String {
        if self.path.is_empty() { field.into() } else { format!("{}.{field}", self.path) }
    }

    /// Gives the table its final path, once its name is known, and notes the lines of all of its fields under it.
    pub(crate) fn settle(&mut self, source: &mut Source<'_>, path: String) {
        self.path = path;
        source.lines.insert(self.path.clone(), self.line);
        for (key, value) in self.table {
            let line = source.line_at(value.span().start);
            source.lines.insert(self.at(key.get_ref()), line);
        }
    }

    fn value(&mut self, field: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.asked.push(field);
        self.table.get(field)
    }

    fn wrong(&self, source: &mut Source<'_>, field: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let line = source.line_at(value.span().start);
        let problem = format!("is {}", described(value.get_ref()));
        source.error(Some(line), &self.at(field), &shown(value.get_ref()), &problem, &format!("write {expected}"));
    }

    /// A required string.
    pub(crate) fn string(&mut self, source: &mut Source<'_>, field: &'static str) -> Option<String> {
        let value = self.string_if(source, field);
        if value.is_none() && !self.table.contains_key(field) {
            let (path, line) = (self.at(field), self.line);
            source.error(Some(line), &path, "", "is missing", &format!("add {field} = \"…\""));
        }
        value
    }

    /// An optional string.
    pub(crate) fn string_if(&mut self, source: &mut Source<'_>, field: &'static str) -> Option<String> {
        let value = self.value(field)?;
        match value.get_ref().as_str() {
            Some(text) => Some(text.into()),
            None => {
                self.wrong(source, field, value, "a string in quotes");
                None
            }
        }
    }

    /// A required string of a form of its own.
    pub(crate) fn parsed<T: FromStr>(&mut self, source: &mut Source<'_>, field: &'static str, form: &str) -> Option<T> {
        let text = self.string(source, field)?;
        self.parse(source, field, &text, form)
    }

    /// An optional string of a form of its own.
    pub(crate) fn parsed_if<T: FromStr>(
        &mut self,
        source: &mut Source<'_>,
        field: &'static str,
        form: &str,
    ) -> Option<T> {
        let text = self.string_if(source, field)?;
        self.parse(source, field, &text, form)
    }

    pub(crate) fn parse<T: FromStr>(&self, source: &mut Source<'_>, field: &str, text: &str, form: &str) -> Option<T> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let line = self.table.get(field).map_or(self.line, |v| source.line_at(v.span().start));
            let kind = form.split(" such as").next().unwrap_or(form);
            let value = if text.is_empty() { "\"\"" } else { text };
            source.error(Some(line), &self.at(field), value, &format!("is not {kind}"), &format!("write {form}"));
        }
        parsed
    }

    /// An optional whole number.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self, source: &mut Source<'_>, field: &'static str, default: T) -> T {
        let Some(value) = self.value(field) else { return default };
        let number = as_u64(value.get_ref()).and_then(|n| T::try_from(n).ok());
        number.unwrap_or_else(|| {
            self.wrong(source, field, value, "a whole number that is not negative and fits the field");
            default
        })
    }

    /// An optional truth value; false without it.
    pub(crate) fn truth(&mut self, source: &mut Source<'_>, field: &'static str) -> bool {
        self.truth_or(source, field, false)
    }

    /// An optional truth value.
    pub(crate) fn truth_or(&mut self, source: &mut Source<'_>, field: &'static str, default: bool) -> bool {
        let Some(value) = self.value(field) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong(source, field, value, "true or false");
            default
        })
    }

    /// An optional list of strings.
    pub(crate) fn strings(&mut self, source: &mut Source<'_>, field: &'static str) -> Vec<String> {
        let Some(value) = self.value(field) else { return Vec::new() };
        let texts = value.get_ref().as_array().and_then(|list| {
            list.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.unwrap_or_else(|| {
            self.wrong(source, field, value, "a list of strings, as in [\"a\", \"b\"]");
            Vec::new()
        })
    }

    /// A field that may be a string, a whole number, or a list of these, as text.
    pub(crate) fn texts(&mut self, source: &mut Source<'_>, field: &'static str, form: &str) -> Vec<String> {
        let Some(value) = self.value(field) else { return Vec::new() };
        let one = |item: &DeValue<'_>| match item {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(_) => as_u64(item).map(|number| number.to_string()),
            DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                None
            }
        };
        let texts = if let DeValue::Array(list) = value.get_ref() {
            list.iter().map(|item| one(item.get_ref())).collect::<Option<Vec<_>>>()
        } else {
            one(value.get_ref()).map(|text| vec![text])
        };
        match texts {
            Some(texts) if !texts.is_empty() => texts,
            Some(_) | None => {
                self.wrong(source, field, value, form);
                Vec::new()
            }
        }
    }

    /// Whether a field is there.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.table.contains_key(field)
    }

    /// Says what is wrong with a field that could be read.
    pub(crate) fn refuse(&self, source: &mut Source<'_>, field: &str, value: &str, problem: &str, remedy: &str) {
        let line = self.table.get(field).map_or(self.line, |v| source.line_at(v.span().start));
        source.error(Some(line), &self.at(field), value, problem, remedy);
    }

    /// Says that a field is missing.
    pub(crate) fn missing(&self, source: &mut Source<'_>, field: &str, remedy: &str) {
        source.error(Some(self.line), &self.at(field), "", "is missing", remedy);
    }

    /// An optional list of whole numbers.
    pub(crate) fn numbers<T: TryFrom<u64>>(
        &mut self,
        source: &mut Source<'_>,
        field: &'static str,
        form: &str,
    ) -> Option<Vec<T>> {
        let value = self.value(field)?;
        let one = |item: &Spanned<DeValue<'_>>| as_u64(item.get_ref()).and_then(|n| T::try_from(n).ok());
        let numbers = value.get_ref().as_array().and_then(|list| list.iter().map(one).collect::<Option<Vec<_>>>());
        if numbers.is_none() {
            self.wrong(source, field, value, form);
        }
        numbers
    }

    /// A field that may be a string or a list of strings.
    pub(crate) fn one_or_many(&mut self, source: &mut Source<'_>, field: &'static str) -> Vec<String> {
        match self.table.get(field).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.strings(source, field),
            _ => self.string_if(source, field).into_iter().collect(),
        }
    }

    /// An optional table.
    pub(crate) fn table(&mut self, source: &mut Source<'_>, field: &'static str) -> Option<Reader<'t, 'i>> {
        let value = self.value(field)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Reader::new(source, table, self.at(field), value.span().start)),
            None => {
                self.wrong(source, field, value, &format!("a table: [{field}]"));
                None
            }
        }
    }

    /// An optional array of tables.
    pub(crate) fn tables(&mut self, source: &mut Source<'_>, field: &'static str) -> Vec<Reader<'t, 'i>> {
        let Some(value) = self.value(field) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(source, field, value, &format!("tables in double brackets: [[{}]]", self.at(field)));
            return Vec::new();
        };
        let mut readers = Vec::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let path = format!("{}[{at}]", self.at(field));
                    readers.push(Reader::new(source, table, path, item.span().start));
                }
                None => self.wrong(source, field, item, &format!("tables in double brackets: [[{}]]", self.at(field))),
            }
        }
        readers
    }

    /// Reports the fields that nobody asked for. Call last.
    pub(crate) fn finish(self, source: &mut Source<'_>) {
        for (key, value) in self.table {
            let field: &str = key.get_ref();
            if !self.asked.contains(&field) {
                let remedy = match closest(field, &self.asked) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("known fields: {}", self.asked.join(", ")),
                };
                let line = source.line_at(key.span().start);
                source.error(Some(line), &self.at(field), &shown(value.get_ref()), "is an unknown field", &remedy);
            }
        }
    }
}

/// Reads the name of a table, gives the table its path, and inserts a place for it; `None` if the name is missing or taken.
pub(crate) fn named<T>(
    source: &mut Source<'_>,
    reader: &mut Reader<'_, '_>,
    kind: &str,
    taken: &BTreeMap<String, T>,
) -> Option<String> {
    let name = reader.string(source, "name")?;
    if taken.contains_key(&name) {
        let problem = format!("another {} has this name", kind.rsplit('.').next().unwrap_or(kind));
        let line = source.line_of(&format!("{kind}.{name}")).map_or(String::new(), |l| format!(" (line {l})"));
        reader.settle(source, format!("{kind}.{name}"));
        let here = source.line_of(&reader.at("name"));
        source.error(here, &reader.at("name"), &name, &format!("{problem}{line}"), "names are unique: choose another");
        return None;
    }
    reader.settle(source, format!("{kind}.{name}"));
    Some(name)
}

/// An optional string that is one of a few; each of them stands for a value.
pub(crate) fn choice<T: Copy + Default>(
    source: &mut Source<'_>,
    reader: &mut Reader<'_, '_>,
    field: &'static str,
    choices: &[(&str, T)],
) -> T {
    let Some(text) = reader.string_if(source, field) else { return T::default() };
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return *value;
    }
    let known: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let line = source.line_of(&reader.at(field));
    let remedy = format!("write {}", known.join(" or "));
    source.error(line, &reader.at(field), &text, "is not a known choice", &remedy);
    T::default()
}

/// Two names with a slash between them.
pub(crate) fn pair(
    source: &mut Source<'_>,
    reader: &Reader<'_, '_>,
    field: &str,
    text: &str,
    form: &str,
) -> Option<(String, String)> {
    match text.split_once('/') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains('/') => Some((a.into(), b.into())),
        _ => {
            let line = source.line_of(&reader.at(field));
            source.error(line, &reader.at(field), text, "names no parent", &format!("write {form}"));
            None
        }
    }
}

fn as_u64(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A value as a person wrote it, shortened.
fn shown(value: &DeValue<'_>) -> String {
    let mut text = String::new();
    let _infallible = match value {
        DeValue::String(s) => write!(text, "\"{s}\""),
        DeValue::Integer(n) => write!(text, "{n}"),
        DeValue::Float(n) => write!(text, "{n}"),
        DeValue::Boolean(b) => write!(text, "{b}"),
        DeValue::Datetime(d) => write!(text, "{d}"),
        DeValue::Array(list) => write!(text, "[{} items]", list.len()),
        DeValue::Table(_) => write!(text, "{{…}}"),
    };
    if text.chars().count() > 80 {
        text = text.chars().take(80).chain(['…']).collect();
    }
    text
}

/// The known field that was probably meant: at most two edits away.
fn closest(field: &str, known: &[&'static str]) -> Option<&'static str> {
    known.iter().map(|name| (edits(field, name), *name)).filter(|(d, _)| *d <= 2).min().map(|(_, name)| name)
}

/// Levenshtein distance over characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
