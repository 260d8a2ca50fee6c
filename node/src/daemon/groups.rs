//! What is asked of security groups and what the platform says of its services. Called by the answerer.

use control::command::CommandBody;
use control::nsg::service_tags::ServiceTags;

use super::answer::Answerer;
use super::request::Failure;
use crate::answers::Done;

impl Answerer {
    /// Gives service tags the prefixes of a file.
    pub(super) async fn set_service_tags(&self, file: &str, text: &str) -> Result<Done, Failure> {
        let tags = ServiceTags::parse(file, text)
            .map_err(|errors| Failure::all(422, errors.iter().map(ToString::to_string).collect()))?;
        self.commit(CommandBody::SetServiceTags(Box::new(tags))).await
    }
}
