"""From what the user holds to batches.

`tensors` converts numbers and checks names, `rows` keeps x and its fields together (`Rows`), and `batches` reads every
form of data and divides it into batches (`Batches`).
"""
