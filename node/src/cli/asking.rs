//! Asking members and showing what they answer: the part that most commands share.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use control::concern::{Concern, is_wrong};
use serde_json::Value;

use super::exit::{EXIT_FAILED, EXIT_WRONG};
use super::output::{self, Output, print};
use super::tables;
use super::target::Target;
use crate::daemon::request::Request;

/// How often `status --wait` looks.
const WAIT_LOOK_EVERY: Duration = Duration::from_millis(500);

/// Who answers.
#[derive(Debug, clap::Args)]
pub(super) struct Span {
    /// Only what the asked member itself knows, without asking the others.
    #[arg(long)]
    pub(super) alone: bool,
}

impl Span {
    pub(super) fn of(&self, request: Request) -> Request {
        if self.alone { request } else { request.together() }
    }
}

/// Whom to ask, and how to show the answer.
#[derive(Debug, clap::Args)]
pub(super) struct Asking {
    #[command(flatten)]
    pub(super) target: Target,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

impl Asking {
    pub(super) fn ask(&self, request: &Request) -> Result<ExitCode> {
        let answer = self.target.call(request)?;
        self.show(request, &answer)
    }

    pub(super) fn show(&self, request: &Request, answer: &Value) -> Result<ExitCode> {
        let text = match self.output {
            Output::Json => output::json(answer),
            Output::Table => tables::render(request, answer),
        };
        print(&text)?;
        // A dry run that shows a refusal has answered, but the answer is no.
        let refused = !answer["refused"].is_null();
        Ok(match refused {
            true => ExitCode::from(EXIT_FAILED),
            false if is_status(request) && something_is_wrong(answer) => ExitCode::from(EXIT_WRONG),
            false => ExitCode::SUCCESS,
        })
    }

    /// Asks until nothing is wrong, or the time is over. A cluster that does not answer yet is waited for too.
    pub(super) fn wait(&self, request: &Request, timeout: Duration) -> Result<ExitCode> {
        let began = Instant::now();
        loop {
            let answer = self.target.call(request);
            let over = began.elapsed() >= timeout;
            match answer {
                Ok(answer) if over || !something_is_wrong(&answer) => return self.show(request, &answer),
                Err(error) if over => return Err(error),
                Ok(_) | Err(_) => std::thread::sleep(WAIT_LOOK_EVERY),
            }
        }
    }
}

pub(super) fn is_status(request: &Request) -> bool {
    let asked = if let Request::Together { of } = request { of } else { request };
    *asked == Request::Status
}

/// Whether a status has a concern that is more than a notice. One that cannot be read may be one.
pub(super) fn something_is_wrong(status: &Value) -> bool {
    serde_json::from_value::<Vec<Concern>>(status["concerns"].clone()).map_or(true, |concerns| is_wrong(&concerns))
}
