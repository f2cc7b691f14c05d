//! How good a model is: measured, compared, weighed.

use witness_api::{BenchRequest, ImatrixRequest, MeasureLine, MeasureRequest, SuggestRequest};

use crate::error::ClientError;
use crate::http::Client;
use crate::stream::Lines;

impl Client {
    /// Measures models on a text. Dropping the lines ends the work.
    pub async fn measure(&self, request: &MeasureRequest) -> Result<Lines<MeasureLine>, ClientError> {
        self.stream("/api/witness/measure", request).await
    }

    /// Tries types of a model on a text. Dropping the lines ends the work.
    pub async fn suggest(&self, request: &SuggestRequest) -> Result<Lines<MeasureLine>, ClientError> {
        self.stream("/api/witness/suggest", request).await
    }

    /// Times a model. Dropping the lines ends the work.
    pub async fn bench(&self, request: &BenchRequest) -> Result<Lines<MeasureLine>, ClientError> {
        self.stream("/api/witness/bench", request).await
    }

    /// Has an importance matrix written into a file of this machine. Only the daemon's unix socket accepts this. Dropping the lines ends the work.
    pub async fn imatrix(&self, request: &ImatrixRequest) -> Result<Lines<MeasureLine>, ClientError> {
        self.stream_at_socket("/api/witness/imatrix", request).await
    }
}
