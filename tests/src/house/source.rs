//! The source files of a crate, read and parsed, and what in them is there for tests alone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A source file of a crate.
#[derive(Debug)]
pub struct Source {
    /// From the crate's `src`.
    pub path: PathBuf,
    /// Names of the modules that lead to it; none for the root.
    pub module: Vec<String>,
    /// What it says.
    pub text: String,
    /// The same, parsed.
    pub file: syn::File,
}

/// The sources of the crate whose `src` this is, without those of its tests.
///
/// # Errors
/// If one cannot be read or parsed, with its name.
pub fn sources(src: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "bin") {
                    folders.push(path);
                }
            } else if is_product(&path) {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
                let path = path.strip_prefix(src)?.to_owned();
                found.push(Source { module: module_of(&path), path, text, file });
            }
        }
    }
    ensure!(!found.is_empty(), "no source in {}", src.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn is_product(path: &Path) -> bool {
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    path.extension().is_some_and(|extension| extension == "rs")
        && !(name == "tests" || name.ends_with("_tests") || name.ends_with("_test"))
}

pub(super) fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod")
        || matches!(module.as_slice(), [one] if one == "lib" || one == "main")
    {
        module.pop();
    }
    module
}

/// Whether these attributes are of something that is there for tests alone.
fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|what| what.is_ident("test")))
    })
}

/// Whether an item is there for tests alone.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser may learn of more kinds, which have no attribute of ours"
)]
pub(super) fn is_for_tests(item: &syn::Item) -> bool {
    use syn::Item;
    match item {
        Item::Const(i) => for_tests(&i.attrs),
        Item::Enum(i) => for_tests(&i.attrs),
        Item::Fn(i) => for_tests(&i.attrs),
        Item::Impl(i) => for_tests(&i.attrs),
        Item::Macro(i) => for_tests(&i.attrs),
        Item::Mod(i) => for_tests(&i.attrs),
        Item::Static(i) => for_tests(&i.attrs),
        Item::Struct(i) => for_tests(&i.attrs),
        Item::Trait(i) => for_tests(&i.attrs),
        Item::Type(i) => for_tests(&i.attrs),
        Item::Use(i) => for_tests(&i.attrs),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_modules_that_rust_takes_them_for() {
        assert_eq!(module_of(Path::new("lib.rs")), Vec::<String>::new());
        assert_eq!(module_of(Path::new("flow/mod.rs")), ["flow"]);
        assert_eq!(module_of(Path::new("flow/table.rs")), ["flow", "table"]);
        assert!(!is_product(Path::new("src/neigh_tests.rs")) && is_product(Path::new("src/neigh.rs")));
    }
}
