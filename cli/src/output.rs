//! What a command prints: a table for people, JSON for programs; to stdout, and nothing else goes there.
use crate::failure::{During, Outcome};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, Write};

/// How to print.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Output {
    /// Print JSON, one line
    #[arg(long, global = true)]
    pub json: bool,
}

impl Output {
    /// Prints `value` as one line of JSON, or `text` of it for people.
    pub fn show<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce(&T) -> String) -> Outcome {
        let line = if self.json { serde_json::to_string(value).during("print JSON")? } else { text(value) };
        line_out(&line)
    }
    /// Prints a list.
    pub fn list<T: Serialize>(self, rows: &[T], head: &[&str], cells: impl Fn(&T) -> Vec<String>) -> Outcome {
        self.show(rows, |rows| table(head, rows.iter().map(&cells)))
    }
}

/// Prints a line; a reader that went away is no error.
pub fn line_out(line: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", line.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.during("write to stdout"),
    }
}

/// Columns under a head, without lines between them.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_columns_and_no_trailing_blanks() {
        let text = table(
            &["id", "name"],
            [vec!["1".into(), "alpha".into()], vec!["22".into(), "b".into()]].into_iter(),
        );
        assert_eq!(text, "ID  NAME\n1   alpha\n22  b");
    }
}
