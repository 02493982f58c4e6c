def kv_write(states, buffer, rows, positions):
    buffer.transpose(1, 2)[rows[:, None], positions] = states.transpose(1, 2)
