// MessagePack, as much of it as the native protocol uses.

const utf8 = { in: new TextDecoder(), out: new TextEncoder() };

export function pack(value) {
  const out = [];
  const put = (x) => {
    if (x === null || x === undefined) out.push(0xc0);
    else if (x === false || x === true) out.push(x ? 0xc3 : 0xc2);
    else if (Number.isInteger(x) && x >= 0 && x < 2 ** 32) out.push(...(x < 128 ? [x] : [0xce, x >>> 24, (x >>> 16) & 255, (x >>> 8) & 255, x & 255]));
    else if (typeof x === "number") {
      const view = new DataView(new ArrayBuffer(8));
      view.setFloat64(0, x);
      out.push(0xcb, ...new Uint8Array(view.buffer));
    } else if (typeof x === "string") {
      const bytes = utf8.out.encode(x);
      out.push(0xdb, bytes.length >>> 24, (bytes.length >>> 16) & 255, (bytes.length >>> 8) & 255, bytes.length & 255);
      for (const byte of bytes) out.push(byte);
    } else {
      const entries = Object.entries(x);
      out.push(0xde, entries.length >>> 8, entries.length & 255);
      for (const [key, item] of entries) {
        put(key);
        put(item);
      }
    }
  };
  put(value);
  return new Uint8Array(out);
}

export function unpack(buffer) {
  const view = new DataView(buffer);
  let at = 0;
  const uint = (size) => {
    let value = 0;
    for (let i = 0; i < size; i++) value = value * 256 + view.getUint8(at++);
    return value;
  };
  const bytes = (size) => new Uint8Array(buffer, (at += size) - size, size);
  const text = (size) => utf8.in.decode(bytes(size));
  const list = (size) => Array.from({ length: size }, take);
  const map = (size) => {
    const found = {};
    for (let i = 0; i < size; i++) {
      const key = take();
      found[key] = take();
    }
    return found;
  };
  const float = (name, size) => {
    const value = view[name](at);
    at += size;
    return value;
  };
  function take() {
    const kind = uint(1);
    if (kind < 0x80) return kind;
    if (kind < 0x90) return map(kind & 15);
    if (kind < 0xa0) return list(kind & 15);
    if (kind < 0xc0) return text(kind & 31);
    if (kind >= 0xe0) return kind - 256;
    switch (kind) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return bytes(uint(1 << (kind - 0xc4)));
      case 0xca: return float("getFloat32", 4);
      case 0xcb: return float("getFloat64", 8);
      case 0xcc: case 0xcd: case 0xce: case 0xcf: return uint(1 << (kind - 0xcc));
      case 0xd0: return float("getInt8", 1);
      case 0xd1: return float("getInt16", 2);
      case 0xd2: return float("getInt32", 4);
      case 0xd3: return Number(float("getBigInt64", 8));
      case 0xd9: case 0xda: case 0xdb: return text(uint(1 << (kind - 0xd9)));
      case 0xdc: case 0xdd: return list(uint(2 << (kind - 0xdc)));
      case 0xde: case 0xdf: return map(uint(2 << (kind - 0xde)));
      default: throw new Error(`no MessagePack: ${kind}`);
    }
  }
  return take();
}
