//! Who imports whom among the files of a crate, and the circles in that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use syn::visit::{self, Visit};

use super::source::{Source, is_for_tests};

/// Files that import each other, each of them all others in the end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Circle {
    /// In order.
    pub files: Vec<PathBuf>,
    /// Which of them names what of which other one.
    pub arrows: Vec<(PathBuf, PathBuf, String)>,
}

/// The circles of a crate's files, the largest first.
#[must_use]
pub fn circles(sources: &[Source]) -> Vec<Circle> {
    let arrows = arrows(sources);
    let graph: DiGraphMap<usize, ()> = arrows.iter().map(|(from, to, _)| (*from, *to)).collect();
    let path = |at: usize| sources[at].path.clone();
    let circle = |mut places: Vec<usize>| {
        places.sort_unstable();
        let within = arrows.iter().filter(|(from, to, _)| places.contains(from) && places.contains(to));
        let arrows = within.map(|(from, to, name)| (path(*from), path(*to), name.clone())).collect();
        Circle { files: places.iter().map(|at| path(*at)).collect(), arrows }
    };
    let mut found: Vec<Circle> = tarjan_scc(&graph).into_iter().filter(|scc| scc.len() > 1).map(circle).collect();
    found.sort_by_key(|circle| (std::cmp::Reverse(circle.files.len()), circle.files.clone()));
    found
}

/// Which file names what of which other one. A name that a file passes on by `pub use` is counted for where it comes
/// from.
fn arrows(sources: &[Source]) -> BTreeSet<(usize, usize, String)> {
    let places: BTreeMap<&[String], usize> =
        sources.iter().enumerate().map(|(at, source)| (source.module.as_slice(), at)).collect();
    let mut passed_on: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    let mut named = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        let mut paths = Paths { here: source.module.clone(), places: &places, found: Vec::new() };
        paths.visit_file(&source.file);
        for Named { path, passed_as } in paths.found {
            if let Some(name) = passed_as {
                passed_on.insert((at, name), path.clone());
            }
            named.push((at, path));
        }
    }
    let file_of = |path: &[String]| (0..=path.len()).rev().find_map(|end| Some((*places.get(&path[..end])?, end)));
    let target = |path: &[String]| {
        let (mut at, mut end) = file_of(path)?;
        let mut path = path.to_vec();
        // Passed on at most a few times.
        for _ in 0..8 {
            let Some(origin) = path.get(end).and_then(|name| passed_on.get(&(at, name.clone()))) else { break };
            path = origin.clone();
            (at, end) = file_of(&path)?;
        }
        Some((at, path.get(end).cloned().unwrap_or_default()))
    };
    let arrow = |(from, path): (usize, Vec<String>)| target(&path).map(|(to, name)| (from, to, name));
    named.into_iter().filter_map(arrow).filter(|(from, to, _)| from != to).collect()
}

/// A path that a file names, from the crate's root.
struct Named {
    path: Vec<String>,
    /// Under which name it is passed on.
    passed_as: Option<String>,
}

struct Paths<'a> {
    here: Vec<String>,
    places: &'a BTreeMap<&'a [String], usize>,
    found: Vec<Named>,
}

impl Paths<'_> {
    /// From the crate's root, if it is of this crate.
    fn resolve(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut path = self.here.clone();
        let mut rest = segments;
        match rest.first()?.as_str() {
            "crate" => {
                path.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    path.pop()?;
                    rest = &rest[1..];
                }
            }
            first => {
                path.push(first.to_owned());
                let is_child = self.places.contains_key(path.as_slice());
                path.pop();
                if !is_child {
                    return None;
                }
            }
        }
        path.extend_from_slice(rest);
        Some(path)
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>, is_public: bool) {
        let leaf = |this: &mut Self, before: &[String], name: String, passed_as: String| {
            let mut segments = before.to_vec();
            if name != "self" {
                segments.push(name);
            }
            if let Some(path) = this.resolve(&segments) {
                this.found.push(Named { path, passed_as: is_public.then_some(passed_as) });
            }
        };
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, is_public);
                before.pop();
            }
            syn::UseTree::Name(name) => leaf(self, before, name.ident.to_string(), name.ident.to_string()),
            syn::UseTree::Rename(name) => leaf(self, before, name.ident.to_string(), name.rename.to_string()),
            syn::UseTree::Glob(_) => leaf(self, before, "self".into(), "*".into()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before, is_public)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.here.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.here.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), is_public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            if let Some(path) = self.resolve(&segments) {
                self.found.push(Named { path, passed_as: None });
            }
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    fn circles_of(sources: &[Source]) -> Vec<Vec<String>> {
        let names = |circle: Circle| circle.files.iter().map(|path| path.display().to_string()).collect();
        circles(sources).into_iter().map(names).collect()
    }

    #[test]
    fn files_that_import_each_other_are_a_circle() {
        let lib = source("lib.rs", "mod a; mod b; mod c; pub use c::Third;");
        let a = source("a.rs", "use crate::b::{self, B}; pub struct A;");
        let c = source("c.rs", "pub struct Third;");
        let b = |text| source("b.rs", text);
        let lone = [source("lib.rs", "mod a; mod b;"), source("a.rs", "use crate::b::B;"), b("pub struct B;")];
        assert!(circles_of(&lone).is_empty());
        let [lib, a, c] = [lib, a, c];
        let all = [lib, a, b("fn f() -> super::a::A { super::a::A }"), c];
        assert_eq!(circles_of(&all), [["a.rs", "b.rs"]]);
        let [lib, a, _, c] = all;
        let all = [lib, a, b("#[cfg(test)] mod tests { use crate::a::A; }"), c];
        assert!(circles_of(&all).is_empty(), "a test may look anywhere");
    }

    #[test]
    fn what_is_passed_on_is_counted_for_where_it_comes_from() {
        let all = [
            source("lib.rs", "mod flow; mod user;"),
            source("flow/mod.rs", "mod table; mod record; pub use record::Record; pub use table::Table;"),
            source("flow/record.rs", "pub struct Record;"),
            source("flow/table.rs", "use super::Record; pub struct Table;"),
            source("user.rs", "use crate::flow::Table;"),
        ];
        assert!(circles_of(&all).is_empty());
        let [lib, flow, record, _, user] = all;
        let back = [lib, flow, record, source("flow/table.rs", "use crate::user::User; pub struct Table;"), user];
        assert_eq!(circles_of(&back), [["flow/table.rs", "user.rs"]]);
    }
}
