//! The shape of the sources, measured: which files import each other in a circle, which functions are long, which files
//! name the engine's worker, and which runs of lines stand twice. Read by `cargo run -p qnat-tests --bin house` and held by
//! `tests/house.rs`. Parses, never compiles; tests inside the sources are left out.

mod imports;
mod runs;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

pub use imports::{Circle, circles};
pub use runs::{RUN_LINES, Run, repeated};
use source::is_for_tests;
pub use source::{Source, sources};

/// Folders of the crates that the product, its bench and its drills are made of.
pub const CRATES: &[&str] = &[
    "node/words",
    "node/engine",
    "node/control",
    "node/member",
    "consensus",
    "netio",
    "node/lab",
    "node",
    "bench",
    "chaos",
    "tests",
    "tests/reference",
];

/// Most lines of a function, its signature and closing brace included.
pub const FUNCTION_LINES_MAX: usize = 70;

/// A function that is too long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Long {
    /// Its file, from the crate's `src`.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// Its lines.
    pub lines: usize,
}

/// Functions of more than [`FUNCTION_LINES_MAX`] lines.
#[must_use]
pub fn long_functions(sources: &[Source]) -> BTreeSet<Long> {
    struct Functions<'a> {
        path: &'a Path,
        found: BTreeSet<Long>,
    }
    impl Functions<'_> {
        fn judge(&mut self, name: &syn::Ident, from: proc_macro2::Span, block: proc_macro2::Span) {
            let lines = block.end().line - from.start().line + 1;
            if lines > FUNCTION_LINES_MAX {
                self.found.insert(Long { path: self.path.to_owned(), name: name.to_string(), lines });
            }
        }
    }
    impl<'ast> Visit<'ast> for Functions<'_> {
        fn visit_item(&mut self, item: &'ast syn::Item) {
            if !is_for_tests(item) {
                visit::visit_item(self, item);
            }
        }
        fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
            self.judge(&item.sig.ident, item.sig.span(), item.block.span());
            visit::visit_item_fn(self, item);
        }
        fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
            self.judge(&item.sig.ident, item.sig.span(), item.block.span());
            visit::visit_impl_item_fn(self, item);
        }
    }
    let mut all = BTreeSet::new();
    for source in sources {
        let mut functions = Functions { path: &source.path, found: BTreeSet::new() };
        functions.visit_file(&source.file);
        all.extend(functions.found);
    }
    all
}

/// Files that write or take a type of this name.
#[must_use]
pub fn naming<'a>(sources: &'a [Source], name: &str) -> BTreeSet<&'a Path> {
    struct Names<'a>(&'a str, bool);
    impl<'ast> Visit<'ast> for Names<'_> {
        fn visit_item(&mut self, item: &'ast syn::Item) {
            if !is_for_tests(item) {
                visit::visit_item(self, item);
            }
        }
        fn visit_type_path(&mut self, path: &'ast syn::TypePath) {
            self.1 |= path.path.segments.last().is_some_and(|last| last.ident == self.0);
            visit::visit_type_path(self, path);
        }
        fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
            self.1 |= item.ident == self.0;
            visit::visit_item_struct(self, item);
        }
    }
    let says = |source: &&Source| {
        let mut names = Names(name, false);
        names.visit_file(&source.file);
        names.1
    };
    sources.iter().filter(says).map(|source| source.path.as_path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn source(path: &str, text: &str) -> Source {
        let file = syn::parse_file(text).expect("Rust");
        Source { path: path.into(), module: source::module_of(Path::new(path)), text: text.to_owned(), file }
    }

    #[test]
    fn a_long_function_is_found_and_one_of_the_tests_is_not() {
        let body = "    work();\n".repeat(FUNCTION_LINES_MAX - 2);
        let exact = source("a.rs", &format!("fn exact() {{\n{body}}}\n"));
        assert!(long_functions(&[exact]).is_empty());
        let text =
            format!("impl T {{\nfn long() {{\n{body}\n}}\n}}\n#[cfg(test)]\nmod tests {{ fn t() {{\n{body}\n\n}} }}\n");
        let found = long_functions(&[source("b.rs", &text)]);
        assert_eq!(found.iter().map(|long| (long.name.as_str(), long.lines)).collect::<Vec<_>>(), [("long", 71)]);
    }

    #[test]
    fn who_takes_or_writes_a_type_is_named() {
        let all = [
            source("worker.rs", "pub struct Worker; impl Worker {}"),
            source("tell.rs", "fn tell(worker: &crate::worker::Worker) {}"),
            source(
                "calm.rs",
                "// Worker\nfn worker() { let text = \"Worker\"; }\n#[cfg(test)] mod t { fn f(w: Worker) {} }",
            ),
        ];
        let named: Vec<_> = naming(&all, "Worker").into_iter().map(Path::to_string_lossy).collect();
        assert_eq!(named, ["tell.rs", "worker.rs"]);
    }
}
