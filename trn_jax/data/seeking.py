"""Random access to the frames of a video stream, from key frame to key frame."""

from collections.abc import Iterator


def decode_from_keys(container, stream, index, wanted, *, in_order):
    """Decode some frames, each from the key frame before it.

    Args:
        container: of PyAV.
        stream: its video stream.
        index: its `FrameIndex`.
        wanted: ascending numbers of frames.
        in_order: function that decodes such frames from the first one of the video on, for streams
            that can't be read from every place.

    Yields:
        Pairs of a number and a frame of PyAV; ends early where a frame is lost.
    """
    position = None
    times = {index.times[number] for number in wanted}
    decoded: Iterator = iter(())
    for rank, number in enumerate(wanted):
        key = index.group(number).start
        if position is None or key > position:
            container.seek(index.times[key], stream=stream)
            decoded = _decode_only(container, stream, times)
        for frame in decoded:
            # After a seek, frames before the key frame may come first.
            position = index.number_of(frame.pts)
            if frame.is_corrupt and position >= key:
                # The decoder fills lost parts from earlier frames, so those are needed, too.
                return
            if position >= number:
                break
        if position != number:
            # In streams without an index, a seek may end behind its target.
            for found, frame in in_order(wanted[rank:]):
                if frame.pts != index.times[found]:
                    return  # frames are lost, so the numbers of the others are wrong
                yield found, frame
            return
        yield number, frame


def _decode_only(container, stream, times):
    """Decode from here on, without frames that are neither at `times` nor references."""
    for packet in container.demux(stream):
        # FFmpeg decodes no other frame from a non-reference one, so it may be skipped.
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in times else "NONREF"
        yield from packet.decode()
