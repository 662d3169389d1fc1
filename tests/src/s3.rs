//! An S3 server in this process.

use std::path::{Path, PathBuf};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use object_store::aws::AmazonS3Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ACCESS_KEY: &str = "wasmjob";
const SECRET_KEY: &str = "a key that only this server knows";

/// An S3 server on a free port, with one bucket that is a folder. Dropping it ends it.
pub struct S3Server {
    endpoint: String,
    dir: TempDir,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// The bucket there is.
    pub const BUCKET: &str = "artifacts";

    /// Starts a server on the current tokio runtime.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("tests need a temporary folder");
        std::fs::create_dir(dir.path().join(Self::BUCKET)).expect("a new folder can be written");
        let files = s3s_fs::FileSystem::new(dir.path()).expect("the folder was just made");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        Self { endpoint: format!("http://{address}"), dir, accepting: tokio::spawn(accept(listener, service.build())) }
    }

    /// Settings of a client that may use it.
    #[must_use]
    pub fn client(&self) -> AmazonS3Builder {
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
    }

    /// The folder behind the bucket.
    #[must_use]
    pub fn bucket_dir(&self) -> PathBuf {
        Path::new(self.dir.path()).join(Self::BUCKET)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, service: S3Service) {
    while let Ok((socket, _)) = listener.accept().await {
        let service = service.clone();
        // A connection that breaks is the client's affair.
        tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
