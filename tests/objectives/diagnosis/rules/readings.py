"""What every table of rules is asked: which rule takes a line, and which rule no line meets."""


def first(book, line):
    """The rule that names the cause of a line, as the reader of lines takes it."""
    fit = book.candidates(line.lower())
    return next((rule for rule in fit if rule.pattern.search(line)), None)


def unmet(rules, book, lines):
    """The rules that no line has, in their order."""
    met = {id(first(book, line)) for line in lines}
    return [rule for rule in rules if id(rule) not in met]
