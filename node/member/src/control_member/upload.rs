//! A configuration that is too long for one entry, on its way into the log: an entry that begins it, its parts, a few at a
//! time, and the entry that makes them take effect. Each is submitted again until the log has answered, so leaders may
//! change meanwhile; what the log refuses of it ends it. Only the last answer is the configuration's.

use consensus::control::storage::LogStore;
use control::command::{CommandBody, Key, PlanHash};
use control::outcome::Outcome;

use super::ControlMember;
use super::io::{ControlOut, NotDone, Now};
use super::parts::Upload;

/// So many parts are on their way at once.
const UNDER_WAY_MAX: usize = 4;

impl<S: LogStore> ControlMember<S> {
    /// Begins to send `parts`; `Done` with the ticket follows.
    pub(super) fn upload(&mut self, now: Now, ticket: u64, parts: Vec<Vec<u8>>, hash: PlanHash) {
        let begin = self.enqueue(now, None, CommandBody::ConfigureBegin);
        let under_way = begin.into_iter().collect();
        self.uploads.push(Upload { ticket, parts, hash, attempt: None, next: 0, under_way });
    }

    /// The log answered one of our commands.
    pub(super) fn upload_answered(&mut self, now: Now, key: Key, outcome: &Outcome) {
        let Some(at) = self.uploads.iter().position(|upload| upload.under_way.contains(&key)) else { return };
        let mut upload = self.uploads.swap_remove(at);
        upload.under_way.remove(&key);
        match outcome {
            Outcome::Refused(_) => {
                self.give_up(&upload, Ok(outcome.clone()));
                return;
            }
            Outcome::Applied { index, .. } => {
                upload.attempt.get_or_insert(*index);
            }
        }
        if self.send_parts(now, &mut upload) {
            self.uploads.push(upload);
        }
    }

    /// One of our commands was not answered in time.
    pub(super) fn upload_late(&mut self, key: Key) {
        if let Some(at) = self.uploads.iter().position(|upload| upload.under_way.contains(&key)) {
            let upload = self.uploads.swap_remove(at);
            self.give_up(&upload, Err(NotDone::Timeout));
        }
    }

    /// Sends what may be sent now; false once only its end is on its way, which has the ticket.
    fn send_parts(&mut self, now: Now, upload: &mut Upload) -> bool {
        let Some(attempt) = upload.attempt else { return true };
        while upload.under_way.len() < UNDER_WAY_MAX
            && let Some(part) = upload.parts.get_mut(upload.next)
        {
            let number = u32::try_from(upload.next).expect("few parts");
            let body = CommandBody::ConfigurePart { attempt, number, bytes: std::mem::take(part) };
            let Some(key) = self.enqueue(now, None, body) else {
                self.give_up(upload, Err(NotDone::TooLarge));
                return false;
            };
            upload.under_way.insert(key);
            upload.next += 1;
        }
        if !upload.under_way.is_empty() {
            return true;
        }
        let parts = u32::try_from(upload.parts.len()).expect("few parts");
        let body = CommandBody::ConfigureCommit { attempt, parts, hash: upload.hash };
        self.enqueue(now, Some(upload.ticket), body);
        false
    }

    /// It ends here; nothing more of it is submitted.
    fn give_up(&mut self, upload: &Upload, result: Result<Outcome, NotDone>) {
        upload.under_way.iter().for_each(|key| drop(self.pending.remove(key)));
        self.out.push_back(ControlOut::Done { ticket: upload.ticket, result });
    }
}
