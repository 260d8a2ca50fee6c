//! A member whose disk is full, in a lab. Needs root.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qnat_tests::disk::Disk;
use qnat_tests::lab::{INET, Lab, json, ok, rows, wait_until};
use qnat_tests::resources::Changes;

const DIR: &str = "/run/qnat-lab";

fn state_of(node: &str) -> String {
    let status = json(&["lab", "status", "-o", "json"]);
    let row = rows(&status["nodes"]).find(|row| row["node"]["name"] == node).cloned().expect("a member");
    row["state"].as_str().expect("a word").to_owned()
}

/// Moves a member's data to a disk of its own.
fn with_data_on(disk: &Disk, node: &str) {
    let data = Path::new(DIR).join(node).join("data");
    ok(&["lab", "kill", node]);
    let copied = Command::new("cp").arg("-a").arg(data.join(".")).arg(disk.place()).status().expect("cp");
    assert!(copied.success(), "the member's files fit");
    disk.mount_at(&data);
    ok(&["lab", "restart", node]);
}

/// Resources that take hundreds of kilobytes in the log.
fn large(idle_minutes: u32) -> Large {
    let instance = |n: u32| {
        format!(
            "[[instance]]\nname = \"spare{n}\"\n[[instance.ip_configuration]]\nname = \"ipconfig1\"\n\
             private_ip = \"10.0.{}.{}\"\nsubnet = \"vnet1/default\"\n",
            16 + n / 250,
            1 + n % 250
        )
    };
    Large { rule: format!("idle_timeout_minutes = {idle_minutes}"), more: (0..3_000).map(instance).collect() }
}

/// Owned lines of resources.
struct Large {
    rule: String,
    more: String,
}

impl Large {
    fn apply(&self) {
        Changes { rule: &self.rule, outside: "", more: &self.more }.apply();
    }
}

#[test]
fn a_member_whose_disk_is_full_says_so_and_ends_its_life_and_comes_back_when_there_is_room() {
    let lab = Lab::up();
    // Ends before the lab, whatever happens.
    let disk = Disk::new();
    with_data_on(&disk, "n3");
    lab.wait_until_whole(Duration::from_secs(60));
    let ballast = disk.fill();
    // What the others acknowledge, it cannot write down (C4, I24): at the latest when its file has to grow.
    for round in 0..60 {
        large(7 + round % 2).apply();
        if state_of("n3") == "dead" {
            break;
        }
    }
    wait_until("the member to end its life", Duration::from_secs(5), || state_of("n3") == "dead");
    let log = std::fs::read_to_string(Path::new(DIR).join("n3/log")).expect("its log");
    let last = log.lines().rfind(|line| line.contains("this life ends")).unwrap_or_else(|| panic!("{log}"));
    assert!(last.contains("the control store failed") && last.contains("No space left"), "{last}");
    // The majority goes on, with commands and with new flows.
    Changes { rule: "idle_timeout_minutes = 9", outside: "", more: "" }.apply();
    let answer = lab.exec("b1", &["curl", "-sS", "--max-time", "10", &format!("http://{INET}/")]);
    assert!(answer.contains("address"), "{answer}");
    std::fs::remove_file(ballast).expect("there is room again");
    ok(&["lab", "restart", "n3"]);
    lab.wait_until_whole(Duration::from_secs(60));
    assert_eq!(state_of("n3"), "running");
}
