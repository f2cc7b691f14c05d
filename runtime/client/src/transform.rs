//! Models that become other models: made, planned, written into a directory.

use hyper::Method;
use witness_api::{
    CreateRequest, ExportProgress, ExportRequest, ExportResponse, Progress, TransformPlan, UnbundleProgress,
    UnbundleRequest,
};

use crate::error::ClientError;
use crate::http::{Call, Client};
use crate::stream::Lines;

const EXPORT: &str = "/api/witness/export";

impl Client {
    /// Makes a model and returns the lines of progress. Dropping them ends the work and leaves the store as it was.
    pub async fn create(&self, request: &CreateRequest) -> Result<Lines<Progress>, ClientError> {
        let request = CreateRequest {
            stream: Some(true),
            ..request.clone()
        };
        self.stream("/api/create", &request).await
    }

    /// Asks what the base would become. Makes nothing.
    pub async fn plan(&self, request: &CreateRequest) -> Result<TransformPlan, ClientError> {
        self.post("/api/witness/plan", request).await
    }

    /// Has files written into a directory of this machine. Only the daemon's unix socket accepts this.
    pub async fn export(&self, request: &ExportRequest) -> Result<ExportResponse, ClientError> {
        let request = ExportRequest {
            stream: None,
            ..request.clone()
        };
        let call = Call::json(Method::POST, EXPORT, &request)?;
        self.call_at(&self.socket(), call).await?.json().await
    }

    /// The same with lines of progress, the last of which names the files. Dropping them ends the work.
    pub async fn export_lines(&self, request: &ExportRequest) -> Result<Lines<ExportProgress>, ClientError> {
        let request = ExportRequest {
            stream: Some(true),
            ..request.clone()
        };
        self.stream_at_socket(EXPORT, &request).await
    }

    /// Makes a model of a bundle, a file of this machine. Only the daemon's unix socket accepts this. Dropping the lines ends the work.
    pub async fn unbundle(&self, request: &UnbundleRequest) -> Result<Lines<UnbundleProgress>, ClientError> {
        let request = UnbundleRequest {
            stream: Some(true),
            ..request.clone()
        };
        self.stream_at_socket("/api/witness/unbundle", &request).await
    }
}
