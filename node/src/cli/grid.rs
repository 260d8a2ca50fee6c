//! Tables: rows and columns, and each value by its shape; and any JSON as lines.

use comfy_table::{ContentArrangement, Table, TableComponent, presets};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What stands for a missing value.
pub(super) const NOTHING: &str = "-";
/// Columns of tables that come without a width (no terminal).
const WIDTH: u16 = 160;
/// Of a longer list a table shows the beginning; programs read all of it.
const LIST_MAX: usize = 8;

/// A column: its title, and its value in a row.
pub(super) type Column<T> = (&'static str, fn(&T) -> Value);

/// Counters and the like: rows if it is a list of objects, else one line for each value with its path.
pub(super) fn anything(answer: &Value) -> String {
    if let Value::Array(rows) = unwrapped(answer)
        && let Some(Value::Object(first)) = rows.first()
    {
        let titles: Vec<&String> = first.keys().collect();
        let cells = rows.iter().map(|row| titles.iter().map(|title| cell(&row[title.as_str()])).collect());
        return draw(&titles.iter().map(|title| title.replace('_', " ")).collect::<Vec<_>>(), cells);
    }
    let mut lines = Vec::new();
    flatten(answer, String::new(), &mut lines);
    if lines.is_empty() {
        "nothing\n".to_owned()
    } else {
        draw(&["what".to_owned(), "value".to_owned()], lines.into_iter())
    }
}

fn flatten(value: &Value, path: String, lines: &mut Vec<Vec<String>>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(value, below(name), lines)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(place, item)| flatten(item, below(&place.to_string()), lines));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            lines.push(vec![path, cell(value)]);
        }
    }
}

/// Rows as a table, or what to say if there are none.
pub(super) fn listing<T>(rows: &[T], columns: &[Column<T>], if_none: &str) -> String {
    if rows.is_empty() { format!("{if_none}\n") } else { table(rows, columns) }
}

/// Rows as a table.
pub(super) fn table<T>(rows: &[T], columns: &[Column<T>]) -> String {
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    draw(&titles, rows.iter().map(|row| columns.iter().map(|(_, value)| cell(&value(row))).collect()))
}

/// Cells as a table.
pub(super) fn draw(titles: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_style(TableComponent::HeaderLines, '─').set_style(TableComponent::MiddleHeaderIntersections, '─');
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    table.set_header(titles).add_rows(rows);
    // Columns are filled up to their width; what is blank at the end is nobody's.
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// One value in a table, by its shape.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        // It comes from a member, but configuration names are in it: no control characters on somebody's terminal.
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) if items.is_empty() => NOTHING.to_owned(),
        Value::Array(items) if items.len() > LIST_MAX => {
            let first: Vec<String> = items.iter().take(LIST_MAX - 2).map(cell).collect();
            format!("{}, … {} in all", first.join(", "), items.len())
        }
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(_) => object(value),
    }
}

fn object(value: &Value) -> String {
    let number = |name: &str| value[name].as_u64();
    // "3/3" of a redundancy, "first-last" of a port range, a block of a lease, a replica.
    if let (Some(have), Some(want)) = (number("have"), number("want")) {
        let reachable = if value["reachable"] == true { " reachable" } else { "" };
        return format!("{have}/{want}{reachable}");
    }
    if let (Some(first), Some(last)) = (number("first"), number("last")) {
        return format!("{first}-{last}");
    }
    if let (Some(start), Some(len)) = (number("start"), number("len")) {
        let last = (start + len).saturating_sub(1);
        let frontend = value.get("frontend").map_or_else(String::new, |frontend| format!("{}:", cell(frontend)));
        return format!("{frontend}{start}-{last}");
    }
    // An inside interface: the network that it leads to, and its MAC.
    if let (Some(mac), Some(network)) = (value.get("mac"), value.get("virtual_network")) {
        let there = if value["declared"] == true { "" } else { " (not declared)" };
        return format!("{}{there} {}", cell(network), cell(mac));
    }
    if value.get("node").is_some() && value.get("incarnation").is_some() {
        let node = number("node").map_or("?".to_owned(), |id| format!("n{id}"));
        return if value["gone"] == true { format!("{node} (gone)") } else { node };
    }
    value.to_string()
}

/// What an object with one field holds; anything else as it is.
pub(super) fn unwrapped(answer: &Value) -> &Value {
    let only = answer.as_object().filter(|fields| fields.len() == 1);
    only.and_then(|fields| fields.values().next()).unwrap_or(answer)
}

/// What `show` makes of the answer, or the answer as it is if it cannot be read.
pub(super) fn read<T: DeserializeOwned>(answer: &Value, show: impl FnOnce(&T) -> String) -> String {
    match T::deserialize(answer) {
        Ok(told) => show(&told),
        Err(error) => format!("an answer of another version ({error}):\n{}", anything(answer)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_show_by_their_shape() {
        assert_eq!(cell(&json!([1, 2, 3, 4, 5, 6, 7, 8])), "1, 2, 3, 4, 5, 6, 7, 8");
        assert_eq!(cell(&json!([1, 2, 3, 4, 5, 6, 7, 8, 9])), "1, 2, 3, 4, 5, 6, … 9 in all");
        assert_eq!(cell(&json!({"frontend": "203.0.113.1", "start": 1024, "len": 64})), "203.0.113.1:1024-1087");
        assert_eq!(
            cell(&json!([{"first": 1024, "last": 1087}, {"first": 2048, "last": 2111}])),
            "1024-1087, 2048-2111"
        );
        assert_eq!(cell(&json!({"node": 3, "incarnation": 9, "gone": true, "sealed": false})), "n3 (gone)");
        assert_eq!(cell(&json!("evil\u{1b}[2J")), "evil[2J");
    }

    #[test]
    fn a_table_has_one_ruler_and_is_no_wider_than_it_may_be() {
        let rows = (0..9).map(|n| vec![n.to_string(), "word ".repeat(60)]);
        let text = draw(&["shard".to_owned(), "why".to_owned()], rows);
        let ruler = |line: &&str| !line.is_empty() && line.chars().all(|c| c == '─');
        assert_eq!(text.lines().filter(ruler).count(), 1, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn counters_of_any_shape_become_lines() {
        let text = anything(&json!({"drops": {"no_lease": 3}, "workers": [1, 2]}));
        assert!(text.contains("drops.no_lease") && text.contains("1, 2"), "{text}");
        let text = anything(&json!({"hashes": [{"shard": 1, "applied": 20, "hash": "ab"}]}));
        assert!(text.contains("applied") && text.contains("ab"), "{text}");
    }
}
