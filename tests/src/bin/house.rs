//! Prints the shape of the sources: of each crate its files, circles of imports, long functions and repeated runs, and which
//! files of the engine name its worker.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::path::Path;

use anyhow::Result;
use qnat_tests::house;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    for name in house::CRATES {
        let sources = house::sources(&root.join(name).join("src"))?;
        let (circles, long) = (house::circles(&sources), house::long_functions(&sources));
        let runs = house::repeated(&sources);
        println!(
            "{name}: {} files, {} circles, {} functions over {} lines, {} repeated runs",
            sources.len(),
            circles.len(),
            long.len(),
            house::FUNCTION_LINES_MAX,
            runs.len()
        );
        for circle in circles {
            let names: Vec<String> = circle.files.iter().map(|path| path.display().to_string()).collect();
            println!("  circle of {}: {}", names.len(), names.join(" "));
            for (from, to, name) in circle.arrows {
                println!("    {} takes {name} of {}", from.display(), to.display());
            }
        }
        for long in long {
            println!("  {} lines: {} in {}", long.lines, long.name, long.path.display());
        }
        for run in runs {
            println!(
                "  {} lines twice: {}:{} and {}:{}",
                run.lines,
                run.first.0.display(),
                run.first.1,
                run.again.0.display(),
                run.again.1
            );
        }
        if *name == "node/engine" {
            let named = house::naming(&sources, "Worker");
            println!("  {} files name Worker", named.len());
        }
    }
    Ok(())
}
