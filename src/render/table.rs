//! Tables that fit the terminal. Pure.

/// Narrowest that a column is made to fit.
const COLUMN_MIN: usize = 8;
/// Spaces between columns.
const GAP: usize = 3;

/// A table of texts with a head.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table with these column heads.
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            head: head.iter().map(|&text| text.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; one cell per head.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len());
        self.rows.push(cells.into_iter().map(|cell| one_line(&cell)).collect());
    }

    /// Returns the table as text. With a width, the widest columns are cut (`…`) until every line fits; without one nothing is cut,
    /// so that a script sees whole names.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut out = String::new();
        for row in std::iter::once(&self.head).chain(&self.rows) {
            let mut line = String::new();
            for (index, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if index > 0 {
                    line.push_str(&" ".repeat(GAP));
                }
                let cell = cut(cell, width);
                let padding = width - columns(&cell);
                line.push_str(&cell);
                line.push_str(&" ".repeat(padding));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = (0..self.head.len())
            .map(|index| {
                let cells = std::iter::once(&self.head).chain(&self.rows).map(|row| &row[index]);
                cells.map(|cell| columns(cell)).max().unwrap_or(0)
            })
            .collect();
        let Some(limit) = limit else {
            return widths;
        };
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            let widest = widths.iter_mut().max_by_key(|width| **width);
            match widest {
                Some(width) if *width > COLUMN_MIN => *width -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// Returns how many columns a text takes. Wide characters are counted as one: names and numbers hardly hold any.
fn columns(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Returns a text without line ends and other control characters, which could rewrite the terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["NAME", "SIZE"]);
        table.row(["a-model-with-a-long-name:latest".into(), "4.7 GB".into()]);
        table.row(["x".into(), "12 kB".into()]);
        table
    }

    #[test]
    fn without_a_terminal_nothing_is_cut() {
        assert_eq!(
            table().render(None),
            "NAME                              SIZE\na-model-with-a-long-name:latest   4.7 GB\nx                                 12 kB\n"
        );
    }

    #[test]
    fn the_widest_column_gives_way_to_the_terminal() {
        let text = table().render(Some(24));
        assert_eq!(
            text,
            "NAME              SIZE\na-model-with-a…   4.7 GB\nx                 12 kB\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 24));
    }

    #[test]
    fn control_characters_of_a_name_do_not_reach_the_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\nc"), "a [2Jb c");
    }
}
