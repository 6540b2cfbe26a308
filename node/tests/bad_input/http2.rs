//! HTTP/2 by hand, right and wrong: what no library would send.

/// Bytes for one connection.
pub struct Http2 {
    pub bytes: Vec<u8>,
    stream: u32,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Http2 {
    /// The preface and empty settings.
    pub fn begun() -> Http2 {
        let empty = Http2 {
            bytes: PREFACE.to_vec(),
            stream: 1,
        };
        empty.frame(SETTINGS, 0, 0, b"")
    }

    /// One whole gRPC call; `body` with its head of five bytes.
    pub fn call(path: &str, body: &[u8]) -> Http2Bytes {
        Http2::begun().request(path, body).bytes
    }

    pub fn request(self, path: &str, body: &[u8]) -> Http2 {
        let stream = self.stream;
        let mut next = self
            .frame(HEADERS, END_HEADERS, stream, &head(path))
            .frame(DATA, END_STREAM, stream, body);
        next.stream += 2;
        next
    }

    pub fn frame(self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Http2 {
        self.lying_frame(payload.len() as u32, kind, flags, stream, payload)
    }

    /// A frame that announces another length than it has.
    fn lying_frame(
        mut self,
        length: u32,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Http2 {
        self.bytes.extend(&length.to_be_bytes()[1..]);
        self.bytes.extend([kind, flags]);
        self.bytes.extend(stream.to_be_bytes());
        self.bytes.extend(payload);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Http2 {
        self.bytes.extend(bytes);
        self
    }

    /// Connections that break the rules or wear out whoever keeps to them.
    pub fn hostile() -> Vec<Http2> {
        let path = "/understudy.v1.Objects/Execute";
        let begun = Http2::begun;
        let repeated = |count: usize, each: &dyn Fn(Http2, u32) -> Http2| {
            (0..count as u32).fold(begun(), |all, n| each(all, 2 * n + 1))
        };
        vec![
            // The largest length there is, and kinds that do not exist.
            begun().lying_frame(0xff_ffff, DATA, 0, 1, b"x"),
            begun().lying_frame(0xff_ffff, SETTINGS, 0, 0, b""),
            begun().lying_frame(0xff_ffff, HEADERS, END_HEADERS, 1, &head(path)),
            begun().frame(0xee, 0xff, 0x7fff_ffff, &[0xff; 100]),
            // Each kind where it may not be, or too short.
            begun().frame(DATA, 0, 0, b"x"),
            begun().frame(DATA, END_STREAM, 99, b"x"),
            begun().frame(HEADERS, END_HEADERS, 2, &head(path)),
            begun().frame(HEADERS, END_HEADERS, 1, &[0xff; 60]),
            begun().frame(PRIORITY, 0, 1, b"x"),
            begun().frame(RST_STREAM, 0, 0, &[0; 4]),
            begun().frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
            begun().frame(PUSH_PROMISE, END_HEADERS, 1, &head(path)),
            begun().frame(PING, 0, 0, b"short"),
            begun().frame(GOAWAY, 0, 0, &[0xff; 8]),
            begun().frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            begun().frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            begun().frame(CONTINUATION, END_HEADERS, 1, b"x"),
            // Much of what is allowed once.
            repeated(2_000, &|all, stream| {
                all.frame(HEADERS, END_HEADERS, stream, &head(path)).frame(
                    RST_STREAM,
                    0,
                    stream,
                    &[0, 0, 0, 8],
                )
            }),
            repeated(2_000, &|all, stream| {
                all.frame(HEADERS, END_HEADERS, stream, &head(path))
            }),
            repeated(5_000, &|all, _| all.frame(PING, 0, 0, &[7; 8])),
            repeated(5_000, &|all, _| {
                all.frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x10, 0])
            }),
            // Heads that never end.
            (0..2_000).fold(begun().frame(HEADERS, 0, 1, &head(path)), |all, _| {
                all.frame(CONTINUATION, 0, 1, &literal("x-more", "again and again"))
            }),
        ]
    }
}

pub type Http2Bytes = Vec<u8>;

/// The head of a gRPC request, each line written out.
fn head(path: &str) -> Vec<u8> {
    // POST and http are entries of the table that everybody has.
    let mut bytes = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        bytes.extend(literal(name, value));
    }
    bytes
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}
