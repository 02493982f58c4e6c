def kv_compact(buffers, rows, path, accept_len, lengths):
    for b, (row, accepted, start) in enumerate(zip(rows.tolist(), accept_len.tolist(), lengths.tolist())):
        for j in range(1, accepted + 1):
            for buffer in buffers:
                buffer[row, :, start + j] = buffer[row, :, start + int(path[b, j])].clone()
