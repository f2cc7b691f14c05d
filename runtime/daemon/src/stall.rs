//! A stream that gives up on a peer who takes nothing for too long. Reading has limits of its own (head and body timeouts).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Wraps a stream; a write that stays pending for longer than the limit fails.
pub(crate) struct StallGuard<S> {
    stream: S,
    pause_max: Duration,
    /// Runs while a write is pending. Made at the first such write, kept for the next.
    timer: Option<Pin<Box<Sleep>>>,
    is_pending: bool,
}

impl<S> StallGuard<S> {
    pub(crate) fn new(stream: S, pause_max: Duration) -> Self {
        Self {
            stream,
            pause_max,
            timer: None,
            is_pending: false,
        }
    }

    /// Looks at the clock when a write made no progress.
    fn watch<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.is_pending = false;
            return result;
        }
        let deadline = Instant::now() + self.pause_max;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !self.is_pending {
            self.is_pending = true;
            timer.as_mut().reset(deadline);
        }
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer takes nothing any more",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(result, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(result, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    /// The limit is short and nothing is asserted about time: the write simply must end with an error, after what fitted was taken.
    #[tokio::test]
    async fn a_peer_who_takes_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut guarded = StallGuard::new(near, Duration::from_millis(20));
        guarded.write_all(&[0; 4]).await.unwrap();
        let mut taken = [0u8; 4];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut taken).await.unwrap();
        guarded.write_all(&[0; 4]).await.unwrap();
        assert_eq!(
            guarded.write_all(&[0; 1]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }
}
