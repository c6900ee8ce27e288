"""Parses `tf.train.Example`, the messages of TFDS; faster than protobuf, and without TensorFlow.

    Example  {Features features = 1}
    Features {map<string, Feature> feature = 1}
    Feature  {BytesList bytes_list = 1, FloatList float_list = 2, Int64List int64_list = 3}

Each list has its values in field 1; integers may be packed or not.
"""

_WITH_LENGTH = 0x0A  # tag of field 1 with a length
_VALUE = 0x12  # tag of the value of a map entry
_BYTES_LIST, _INT64_LIST = 0x0A, 0x1A
_UNPACKED = 0x08  # tag of field 1 with an integer
_BAD = "no tf.train.Example, or truncated"


def parse(data):
    """Parse a serialized `tf.train.Example`.

    Args:
        data: `bytes`.

    Returns:
        `{name: list of values}`, bytes or integers, without features of floats.

    Raises:
        ValueError: it is none, or truncated.
    """
    found = {}
    try:
        at, end = _span(data, 0, len(data), _WITH_LENGTH)
        while at < end:
            entry, at = _span(data, at, end, _WITH_LENGTH)
            name, end_of_name = _span(data, entry, at, _WITH_LENGTH)
            value, end_of_value = _span(data, end_of_name, at, _VALUE)
            if value < end_of_value:
                kind = data[value]
                values, end_of_values = _span(data, value, end_of_value, kind)
                if kind == _BYTES_LIST:
                    found[data[name:end_of_name].decode()] = _texts(data, values, end_of_values)
                elif kind == _INT64_LIST:
                    found[data[name:end_of_name].decode()] = _integers(data, values, end_of_values)
    except IndexError:
        raise ValueError(_BAD) from None
    return found


def _span(data, at, end, tag):
    """Start and end of the content of a field, after its tag and length."""
    length = data[at + 1]
    start = at + 2
    if length >= 0x80:
        length, start = _varint(data, at + 1)
    stop = start + length
    if data[at] != tag or stop > end:
        raise ValueError(_BAD)
    return start, stop


def _texts(data, at, end):
    values = []
    while at < end:
        start, at = _span(data, at, end, _WITH_LENGTH)
        values.append(data[start:at])
    return values


def _integers(data, at, end):
    values = []
    while at < end:
        if data[at] == _UNPACKED:
            value, at = _varint(data, at + 1)
            values.append(value)
            continue
        at, stop = _span(data, at, end, _WITH_LENGTH)
        while at < stop:
            value, at = _varint(data, at)
            values.append(value)
    # Negative numbers are in two's complement of 64 bits.
    return [value - (1 << 64) if value >> 63 else value for value in values]


def _varint(data, at):
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(_BAD)
