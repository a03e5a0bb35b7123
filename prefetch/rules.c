#include "prefetch/rules.h"

#include <errno.h>

enum kind {
	KIND_PREFETCH,
	KIND_FLAG,
	KIND_COUNT,
	KIND_PRIORITY,
	KIND_RATE,
	KIND_DURATION,
	KIND_QUOTA,
	KIND_ADMIT,
	KIND_WAIT,
	KIND_SIZE,
	KIND_COMPRESSION,
	KIND_DISCONNECTED,
	KIND_SEAL,
};

enum { NOW = true, LATER = false };

static const struct attribute {
	const char *name;
	enum kind kind;
	const char *values;
	uint64_t fallback;
	bool works;
	const char *text;
} attributes_known[RULES_ATTRIBUTE_COUNT] = {
#define ATTRIBUTE_ROW(id, name, kind, values, fallback, effect, text) \
	{ name, KIND_##kind, values, fallback, effect, text },
	RULES_ATTRIBUTES(ATTRIBUTE_ROW)
#undef ATTRIBUTE_ROW
};

#define NAME_BYTES_MAX 32
#define COUNT_VALUE_MAX 1000
#define SIZE_VALUE_MAX (UINT64_C(1) << 60)
#define MS_VALUE_MAX (UINT64_C(3653) * 86400 * 1000) /* ten years */

struct setting {
	uint64_t value;
	uint8_t attribute;
	bool unset;
};

struct rule {
	struct glob glob;
	struct slice text, pattern; /* in rules->text */
	uint32_t line;
	uint32_t mask;              /* of attributes */
	uint32_t first, count;      /* settings */
};

struct rules {
	const struct allocator *allocator;
	char *text;
	size_t text_bytes;
	struct rule *rules;
	size_t count, capacity;
	struct setting *settings;
	size_t setting_count, setting_capacity;
	uint32_t mask;
};

/* ---- texts ---- */

struct text {
	char *to;
	size_t length, size; /* room for the final zero is kept */
};

static void put(struct text *t, struct slice s)
{
	for (size_t i = 0; i < s.length && t->length + 1 < t->size; i++) {
		uint8_t byte = s.data[i];

		t->to[t->length++] = (char)(byte < 0x20 || byte == 0x7f ? '?' : byte);
	}
	t->to[t->length] = '\0';
}

static void put_text(struct text *t, const char *s)
{
	put(t, slice_of(s));
}

static void put_number(struct text *t, uint64_t number)
{
	char digits[20];
	size_t at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number > 0);
	put(t, (struct slice){ (const uint8_t *)digits + at, sizeof(digits) - at });
}

static bool is(struct slice s, const char *text)
{
	return slice_equal(s, slice_of(text));
}

/* What is found is cut: a message is one line. */
static struct slice shown(struct slice s)
{
	return (struct slice){ s.data, s.length < 64 ? s.length : 64 };
}

/* ---- numbers ---- */

/* Digits at the start of *s, which moves behind them. False: none, or more than UINT64_MAX / 2^20. */
static bool take_number(struct slice *s, uint64_t *ret_number)
{
	uint64_t number = 0;
	size_t i = 0;

	for (; i < s->length && s->data[i] >= '0' && s->data[i] <= '9'; i++) {
		if (number > SIZE_VALUE_MAX)
			return false;
		number = number * 10 + (uint64_t)(s->data[i] - '0');
	}
	s->data += i;
	s->length -= i;
	*ret_number = number;
	return i > 0;
}

/* A number with one of `units` ("" is one of them if it may have none); false: not, or over `max`. */
static bool parse_unit(struct slice s, const char *const *units, const uint64_t *factors,
		       uint64_t max, uint64_t *ret_value)
{
	uint64_t number;

	if (!take_number(&s, &number))
		return false;
	for (unsigned i = 0; units[i]; i++) {
		if (!is(s, units[i]))
			continue;
		if (number > max / factors[i])
			return false;
		*ret_value = number * factors[i];
		return true;
	}
	return false;
}

static const char *const size_units[] = { "T", "G", "M", "K", "", NULL };
static const uint64_t size_factors[] = { UINT64_C(1) << 40, 1u << 30, 1u << 20, 1u << 10, 1 };
static const char *const time_units[] = { "d", "h", "m", "s", "ms", NULL };
static const uint64_t time_factors[] = { 86400000, 3600000, 60000, 1000, 1 };

static bool parse_size(struct slice s, uint64_t *ret_bytes)
{
	return parse_unit(s, size_units, size_factors, SIZE_VALUE_MAX, ret_bytes);
}

static bool parse_time(struct slice s, uint64_t *ret_ms)
{
	return parse_unit(s, time_units, time_factors, MS_VALUE_MAX, ret_ms) && *ret_ms > 0;
}

static void put_unit(struct text *t, uint64_t value, const char *const *units,
		     const uint64_t *factors)
{
	unsigned i = 0;

	while (units[i + 1] && (value == 0 || value % factors[i] != 0))
		i++;
	put_number(t, value / factors[i]);
	put_text(t, units[i]);
}

/* ---- values ---- */

static const char *const priorities[] = { "low", "normal", "high", NULL };
static const char *const admits[] = { "first", "second", "never", NULL };
static const char *const waits[] = { "never", "open", NULL };
static const char *const compressions[] = { "auto", "off", NULL };
static const char *const disconnecteds[] = { "mount", "wait", "fail", "stale", NULL };
static const char *const flags[] = { "off", "on", NULL };
static const char *const whens[] = { "on-mount", "on-open", "on-list", "on-create", NULL };

static bool parse_word(struct slice s, const char *const *words, uint64_t *ret_index)
{
	for (unsigned i = 0; words[i]; i++)
		if (is(s, words[i])) {
			*ret_index = i;
			return true;
		}
	return false;
}

static bool parse_amount(struct slice s, uint64_t *ret_amount)
{
	uint64_t bytes;

	if (is(s, "whole"))
		*ret_amount = RULES_AMOUNT_WHOLE;
	else if (is(s, "rest"))
		*ret_amount = RULES_AMOUNT_REST;
	else if (is(s, "metadata"))
		*ret_amount = RULES_AMOUNT_METADATA;
	else if (parse_size(s, &bytes) && bytes > 0 && bytes < SIZE_VALUE_MAX / 16)
		*ret_amount = bytes + RULES_AMOUNT_BYTES;
	else
		return false;
	return true;
}

static bool parse_prefetch(struct slice s, uint64_t *ret_value)
{
	uint64_t amount = RULES_AMOUNT_AUTO, when = 0, bit;

	if (is(s, "off") || is(s, "auto")) {
		*ret_value = (is(s, "off") ? RULES_AMOUNT_OFF : RULES_AMOUNT_AUTO)
			     << RULES_WHEN_BITS;
		return true;
	}
	for (;;) {
		const uint8_t *comma = memchr(s.data, ',', s.length);
		struct slice part = { s.data, comma ? (size_t)(comma - s.data) : s.length };

		if (parse_word(part, whens, &bit) && !(when & UINT64_C(1) << bit))
			when |= UINT64_C(1) << bit;
		else if (amount != RULES_AMOUNT_AUTO || !parse_amount(part, &amount))
			return false;
		if (!comma)
			break;
		s.data += part.length + 1;
		s.length -= part.length + 1;
	}
	/* One without the other has a sense that suggests itself. */
	if (when == 0)
		when = RULES_ON_OPEN;
	if (amount == RULES_AMOUNT_AUTO)
		amount = RULES_AMOUNT_WHOLE;
	*ret_value = amount << RULES_WHEN_BITS | when;
	return true;
}

static bool parse_quota(struct slice s, uint64_t *ret_value)
{
	uint64_t share;
	struct slice rest = s;

	if (s.length > 0 && s.data[s.length - 1] == '%') {
		rest.length--;
		if (!take_number(&rest, &share) || rest.length > 0 || share == 0 || share > 100)
			return false;
		*ret_value = RULES_QUOTA_SHARE | share;
		return true;
	}
	return parse_size(s, ret_value) && *ret_value > 0;
}

static bool parse_seal(struct slice s, uint64_t *ret_ms)
{
	static const char after[] = "after:";
	const size_t length = sizeof(after) - 1;

	if (s.length <= length || memcmp(s.data, after, length) != 0)
		return false;
	return parse_time((struct slice){ s.data + length, s.length - length }, ret_ms);
}

static bool parse_value(enum kind kind, struct slice s, uint64_t *ret_value)
{
	struct slice rest = s;

	switch (kind) {
	case KIND_PREFETCH:
		return parse_prefetch(s, ret_value);
	case KIND_FLAG:
		return parse_word(s, flags, ret_value);
	case KIND_PRIORITY:
		return parse_word(s, priorities, ret_value);
	case KIND_ADMIT:
		return parse_word(s, admits, ret_value);
	case KIND_WAIT:
		return parse_word(s, waits, ret_value);
	case KIND_COMPRESSION:
		return parse_word(s, compressions, ret_value);
	case KIND_DISCONNECTED:
		return parse_word(s, disconnecteds, ret_value);
	default:
		break;
	}
	if (is(s, kind == KIND_COUNT ? "all" : kind == KIND_SIZE ? "mount" :
	       kind == KIND_SEAL ? "never" : "unlimited")) {
		*ret_value = RULES_ALL;
		return true;
	}
	switch (kind) {
	case KIND_COUNT:
		return take_number(&rest, ret_value) && rest.length == 0 && *ret_value > 0 &&
		       *ret_value <= COUNT_VALUE_MAX;
	case KIND_RATE:
		return parse_size(s, ret_value) && *ret_value > 0;
	case KIND_DURATION:
		return parse_time(s, ret_value);
	case KIND_QUOTA:
		return parse_quota(s, ret_value);
	case KIND_SIZE:
		return parse_size(s, ret_value);
	case KIND_SEAL:
		return parse_seal(s, ret_value);
	default:
		return false;
	}
}

static void put_prefetch(struct text *t, uint64_t value)
{
	uint64_t amount = value >> RULES_WHEN_BITS;

	if (amount == RULES_AMOUNT_OFF || amount == RULES_AMOUNT_AUTO) {
		put_text(t, amount == RULES_AMOUNT_OFF ? "off" : "auto");
		return;
	}
	for (unsigned i = 0; whens[i]; i++)
		if (value & UINT64_C(1) << i) {
			put_text(t, whens[i]);
			put_text(t, ",");
		}
	if (amount == RULES_AMOUNT_WHOLE)
		put_text(t, "whole");
	else if (amount == RULES_AMOUNT_REST)
		put_text(t, "rest");
	else if (amount == RULES_AMOUNT_METADATA)
		put_text(t, "metadata");
	else
		put_unit(t, amount - RULES_AMOUNT_BYTES, size_units, size_factors);
}

static void put_limit(struct text *t, enum kind kind, uint64_t value)
{
	if (value == RULES_ALL) {
		put_text(t, kind == KIND_COUNT ? "all" : kind == KIND_SIZE ? "mount" :
			    kind == KIND_SEAL ? "never" : "unlimited");
		return;
	}
	if (kind == KIND_SEAL)
		put_text(t, "after:");
	if (kind == KIND_SEAL || kind == KIND_DURATION)
		put_unit(t, value, time_units, time_factors);
	else if (kind == KIND_COUNT || (kind == KIND_QUOTA && (value & RULES_QUOTA_SHARE)))
		put_number(t, value & ~RULES_QUOTA_SHARE);
	else
		put_unit(t, value, size_units, size_factors);
	if (kind == KIND_QUOTA && (value & RULES_QUOTA_SHARE))
		put_text(t, "%");
}

void rules_value_text(enum rules_attribute attribute, uint64_t value,
		      char ret_text[RULES_VALUE_BYTES])
{
	struct text t = { ret_text, 0, RULES_VALUE_BYTES };
	enum kind kind = attributes_known[attribute].kind;

	*ret_text = '\0';
	switch (kind) {
	case KIND_PREFETCH:
		put_prefetch(&t, value);
		break;
	case KIND_FLAG:
		put_text(&t, flags[value]);
		break;
	case KIND_PRIORITY:
		put_text(&t, priorities[value]);
		break;
	case KIND_ADMIT:
		put_text(&t, admits[value]);
		break;
	case KIND_WAIT:
		put_text(&t, waits[value]);
		break;
	case KIND_COMPRESSION:
		put_text(&t, compressions[value]);
		break;
	case KIND_DISCONNECTED:
		put_text(&t, disconnecteds[value]);
		break;
	default:
		put_limit(&t, kind, value);
		break;
	}
}

/* ---- complaints ---- */

/* How many bytes have to be put in, taken out or replaced to make one of the other. */
static unsigned distance(struct slice a, struct slice b)
{
	unsigned row[NAME_BYTES_MAX + 1];

	if (a.length > NAME_BYTES_MAX || b.length > NAME_BYTES_MAX)
		return UINT32_MAX;
	for (unsigned j = 0; j <= b.length; j++)
		row[j] = j;
	for (unsigned i = 1; i <= a.length; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= b.length; j++) {
			unsigned here = diagonal + (a.data[i - 1] != b.data[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < here)
				here = row[j] + 1;
			if (row[j - 1] + 1 < here)
				here = row[j - 1] + 1;
			row[j] = here;
		}
	}
	return row[b.length];
}

static const char *nearest(struct slice name)
{
	unsigned best = 3 < name.length / 2 + 1 ? 4 : (unsigned)name.length / 2 + 2;
	const char *found = NULL;

	for (unsigned i = 0; i <= RULES_ATTRIBUTE_COUNT; i++) {
		const char *known = i < RULES_ATTRIBUTE_COUNT ? attributes_known[i].name : "unpin";
		unsigned here = distance(name, slice_of(known));

		if (here < best) {
			best = here;
			found = known;
		}
	}
	return found;
}

static void complain_name(struct text *t, struct slice name)
{
	const char *near = nearest(name);

	put_text(t, "there is no attribute '");
	put(t, shown(name));
	put_text(t, "'; ");
	if (near) {
		put_text(t, "did you mean ");
		put_text(t, near);
		put_text(t, "?");
		return;
	}
	put_text(t, "expected one of");
	for (unsigned i = 0; i < RULES_ATTRIBUTE_COUNT; i++) {
		put_text(t, i ? ", " : " ");
		put_text(t, attributes_known[i].name);
	}
}

static void complain_value(struct text *t, const struct attribute *attribute, struct slice value)
{
	if (value.length > 0) {
		put_text(t, "'");
		put(t, shown(value));
		put_text(t, "' is no value of ");
	} else {
		put_text(t, "a value is missing behind ");
	}
	put_text(t, attribute->name);
	put_text(t, "; expected ");
	put_text(t, attribute->values);
}

/* ---- lines ---- */

/* A place in a text, and what is wrong there. */
struct reader_at {
	struct rules *rules;
	const struct allocator *allocator;
	struct rules_error *error;
	const char *line; /* where it begins */
	uint32_t number;
	struct text message;
};

static struct text *complain(struct reader_at *at, const char *where)
{
	at->error->line = at->number;
	at->error->column = (uint32_t)(where - at->line) + 1;
	at->message = (struct text){ at->error->text, 0, sizeof(at->error->text) };
	return &at->message;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static int parse_setting(struct reader_at *at, struct rule *rule, const char *word, size_t length)
{
	struct slice name = { (const uint8_t *)word, length }, value = { NULL, 0 };
	struct setting setting = { 0 }, *added;
	const char *equals = memchr(word, '=', length);
	unsigned i;

	if (*word == '!') {
		setting.unset = true;
		name.data++;
		name.length--;
	} else if (equals) {
		name.length = (size_t)(equals - word);
		value = (struct slice){ (const uint8_t *)equals + 1, length - name.length - 1 };
	}
	for (i = 0; i < RULES_ATTRIBUTE_COUNT; i++)
		if (is(name, attributes_known[i].name))
			break;
	if (is(name, "unpin") && !equals && !setting.unset) {
		i = RULES_PIN;
	} else if (i == RULES_ATTRIBUTE_COUNT) {
		complain_name(complain(at, word), name);
		return -EINVAL;
	} else if (!setting.unset && !equals) {
		if (attributes_known[i].kind != KIND_FLAG) {
			complain_value(complain(at, word + length), &attributes_known[i], value);
			return -EINVAL;
		}
		setting.value = 1;
	} else if (!setting.unset &&
		   !parse_value(attributes_known[i].kind, value, &setting.value)) {
		complain_value(complain(at, equals + 1), &attributes_known[i], value);
		return -EINVAL;
	}
	if (rule->mask & 1u << i) {
		struct text *t = complain(at, word);

		put_text(t, attributes_known[i].name);
		put_text(t, " is set twice in this line; expected it once");
		return -EINVAL;
	}
	rule->mask |= 1u << i;
	rule->count++;
	setting.attribute = (uint8_t)i;
	added = array_append(at->allocator, (void **)&at->rules->settings, &at->rules->setting_count,
			     &at->rules->setting_capacity, sizeof(*added));
	if (!added)
		return -ENOMEM;
	*added = setting;
	return 0;
}

/* Where the pattern that begins at `line` ends: at the first blank without a backslash. */
static const char *pattern_end(const char *line, const char *end)
{
	while (line < end && !is_blank(*line))
		line += *line == '\\' && line + 1 < end ? 2 : 1;
	return line;
}

static int parse_pattern(struct reader_at *at, struct slice pattern, struct glob *ret_glob)
{
	const char *start = (const char *)pattern.data, *expected;
	size_t wrong;

	if (*start == '!') {
		put_text(complain(at, start), "a pattern cannot be negated; expected a pattern, and "
			 "!attribute behind it to take one away");
		return -EINVAL;
	}
	if (glob_compile(pattern, ret_glob, &wrong, &expected) < 0) {
		struct text *t = complain(at, start + wrong);

		put_text(t, "in the pattern, expected ");
		put_text(t, expected);
		return -EINVAL;
	}
	return 0;
}

static int parse_line(struct reader_at *at, const char *start, const char *end)
{
	struct rules *r = at->rules;
	const char *word = pattern_end(start, end);
	struct rule rule = {
		.line = at->number,
		.text = { (const uint8_t *)start, (size_t)(end - start) },
		.pattern = { (const uint8_t *)start, (size_t)(word - start) },
		.first = (uint32_t)r->setting_count,
	}, *added;
	int error;

	error = parse_pattern(at, rule.pattern, &rule.glob);
	while (!error) {
		const char *stop;

		while (word < end && is_blank(*word))
			word++;
		if (word == end)
			break;
		for (stop = word; stop < end && !is_blank(*stop); stop++)
			;
		error = parse_setting(at, &rule, word, (size_t)(stop - word));
		word = stop;
	}
	if (!error && rule.count == 0) {
		put_text(complain(at, end), "nothing is set; expected an attribute behind the pattern, "
			 "like prefetch=whole");
		error = -EINVAL;
	}
	if (!error && r->count == RULES_LINE_COUNT_MAX) {
		put_text(complain(at, start), "too many lines; expected 1000 at most");
		error = -EINVAL;
	}
	if (error)
		return error;
	added = array_append(at->allocator, (void **)&r->rules, &r->count, &r->capacity,
			     sizeof(*added));
	if (!added)
		return -ENOMEM;
	*added = rule;
	r->mask |= rule.mask;
	return 0;
}

static int parse_text(struct reader_at *at)
{
	const char *line = at->rules->text, *text_end = line + at->rules->text_bytes;

	while (line < text_end) {
		const char *newline = memchr(line, '\n', (size_t)(text_end - line));
		const char *start = line, *end = newline ? newline : text_end, *zero;
		int error;

		at->number++;
		at->line = line;
		zero = memchr(line, '\0', (size_t)(end - line));
		if (zero || end - line > RULES_LINE_BYTES_MAX) {
			put_text(complain(at, zero ? zero : line + RULES_LINE_BYTES_MAX),
				 zero ? "a zero byte; expected text" :
					"the line is too long; expected 2048 bytes at most");
			return -EINVAL;
		}
		if (end > line && end[-1] == '\r')
			end--;
		while (start < end && is_blank(*start))
			start++;
		/* A blank at the end may belong to the pattern: "a\ ". */
		while (end > start && is_blank(end[-1]) && !(end - start > 1 && end[-2] == '\\'))
			end--;
		if (start < end && *start != '#') {
			error = parse_line(at, start, end);
			if (error)
				return error;
		}
		line = newline ? newline + 1 : text_end;
	}
	return 0;
}

int rules_compile(const struct allocator *allocator, struct slice text, struct rules **ret_rules,
		  struct rules_error *ret_error)
{
	struct reader_at at = { .allocator = allocator, .error = ret_error };
	struct rules *rules;
	int error;

	memset(ret_error, 0, sizeof(*ret_error));
	if (text.length > RULES_TEXT_BYTES_MAX) {
		at.number = 1;
		at.line = (const char *)text.data;
		for (const char *p = at.line; p < (const char *)text.data + RULES_TEXT_BYTES_MAX; p++)
			if (*p == '\n') {
				at.number++;
				at.line = p + 1;
			}
		put_text(complain(&at, (const char *)text.data + RULES_TEXT_BYTES_MAX),
			 "the policy is too long; expected 16384 bytes at most");
		return -EINVAL;
	}
	rules = allocator->resize(allocator->context, NULL, 0, sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	*rules = (struct rules){ .allocator = allocator };
	at.rules = rules;
	error = 0;
	if (text.length > 0) {
		rules->text = allocator->resize(allocator->context, NULL, 0, text.length);
		if (!rules->text)
			error = -ENOMEM;
	}
	if (rules->text) {
		memcpy(rules->text, text.data, text.length);
		rules->text_bytes = text.length;
		error = parse_text(&at);
	}
	if (error) {
		rules_destroy(rules);
		return error;
	}
	*ret_rules = rules;
	return 0;
}

void rules_destroy(struct rules *rules)
{
	const struct allocator *a;

	if (!rules)
		return;
	a = rules->allocator;
	if (rules->settings)
		a->resize(a->context, rules->settings,
			  rules->setting_capacity * sizeof(*rules->settings), 0);
	if (rules->rules)
		a->resize(a->context, rules->rules, rules->capacity * sizeof(*rules->rules), 0);
	if (rules->text)
		a->resize(a->context, rules->text, rules->text_bytes, 0);
	a->resize(a->context, rules, sizeof(*rules), 0);
}

/* ---- matching ---- */

void rules_attributes_init(struct rules_attributes *attributes)
{
	for (unsigned i = 0; i < RULES_ATTRIBUTE_COUNT; i++) {
		attributes->values[i] = attributes_known[i].fallback;
		attributes->lines[i] = 0;
		attributes->layers[i] = RULES_LAYER_NONE;
	}
	attributes->level = 0;
	attributes->steps = RULES_STEPS_MAX;
}

/* Where what its pattern matches is below: bytes of it that stand for themselves, as whole parts. */
static size_t base_length(const struct glob *glob)
{
	size_t length = glob->prefix;

	if (glob->self || glob->last_part)
		return 0;
	if (!glob->literal)
		while (length > 0 && glob->text[--length] != '/')
			;
	return length;
}

/* How many parts of `path`, which the pattern matches, are behind that. */
static uint32_t level_of(const struct glob *glob, struct slice path)
{
	size_t from = base_length(glob);
	uint32_t level = from == 0 && path.length > 0;

	for (size_t i = from; i < path.length; i++)
		level += path.data[i] == '/';
	return level;
}

void rules_match(const struct rules *rules, struct slice path, bool is_directory, uint8_t layer,
		 struct rules_attributes *attributes)
{
	size_t name_at = glob_name_at(path);
	uint32_t missing = rules->mask;

	/* From the last line up: what is there already came from a later one. */
	for (size_t i = rules->count; i-- > 0 && missing;) {
		const struct rule *rule = &rules->rules[i];
		uint32_t sets = rule->mask & missing;

		if (!sets || !glob_match(&rule->glob, path, name_at, is_directory, &attributes->steps))
			continue;
		for (uint32_t j = rule->first; j < rule->first + rule->count; j++) {
			const struct setting *setting = &rules->settings[j];
			unsigned a = setting->attribute;

			if (!(sets & 1u << a))
				continue;
			attributes->values[a] = setting->unset ? attributes_known[a].fallback :
								 setting->value;
			attributes->lines[a] = (uint16_t)rule->line;
			attributes->layers[a] = layer;
			if (a == RULES_DEPTH)
				attributes->level = level_of(&rule->glob, path);
		}
		missing &= ~sets;
	}
}

/* ---- looking ---- */

uint32_t rules_count(const struct rules *rules)
{
	return (uint32_t)rules->count;
}

uint32_t rules_line(const struct rules *rules, uint32_t index, struct slice *ret_text,
		    struct slice *ret_pattern)
{
	const struct rule *rule = &rules->rules[index];

	if (ret_text)
		*ret_text = rule->text;
	if (ret_pattern)
		*ret_pattern = rule->pattern;
	return rule->line;
}

/* Which RULES_ON_* the line has. */
static unsigned whens_of(const struct rules *rules, const struct rule *rule)
{
	for (uint32_t j = rule->first; j < rule->first + rule->count; j++) {
		const struct setting *setting = &rules->settings[j];

		if (setting->attribute == RULES_PREFETCH && !setting->unset)
			return setting->value & ((1u << RULES_WHEN_BITS) - 1);
	}
	return 0;
}

unsigned rules_whens(const struct rules *rules)
{
	unsigned all = 0;

	for (size_t i = 0; i < rules->count; i++)
		all |= whens_of(rules, &rules->rules[i]);
	return all;
}

/* One is the beginning of the other, in whole parts. */
static bool on_one_way(struct slice a, struct slice b)
{
	const struct slice *longer = a.length > b.length ? &a : &b;
	size_t length = a.length > b.length ? b.length : a.length;

	return length == 0 || (memcmp(a.data, b.data, length) == 0 &&
			       (longer->length == length || longer->data[length] == '/'));
}

bool rules_leads(const struct rules *rules, unsigned when, struct slice path)
{
	for (size_t i = 0; i < rules->count; i++) {
		const struct glob *glob = &rules->rules[i].glob;
		struct slice base = { (const uint8_t *)glob->text, base_length(glob) };

		if (!(whens_of(rules, &rules->rules[i]) & when))
			continue;
		if (glob->self ? path.length == 0 : on_one_way(base, path))
			return true;
	}
	return false;
}

bool rules_line_sets(const struct rules *rules, uint32_t index, enum rules_attribute attribute,
		     uint64_t *ret_value)
{
	const struct rule *rule = &rules->rules[index];

	for (uint32_t j = rule->first; j < rule->first + rule->count; j++) {
		const struct setting *setting = &rules->settings[j];

		if (setting->attribute != attribute)
			continue;
		*ret_value = setting->unset ? attributes_known[attribute].fallback : setting->value;
		return true;
	}
	return false;
}

bool rules_on_mount(const struct rules *rules, uint32_t *index, struct slice *ret_below)
{
	while (*index < rules->count) {
		const struct rule *rule = &rules->rules[(*index)++];

		if (!(whens_of(rules, rule) & RULES_ON_MOUNT))
			continue;
		*ret_below = (struct slice){ (const uint8_t *)rule->glob.text, base_length(&rule->glob) };
		return true;
	}
	return false;
}

bool rules_sets(const struct rules *rules, enum rules_attribute attribute)
{
	return (rules->mask & 1u << attribute) != 0;
}

uint64_t rules_least(const struct rules *rules, enum rules_attribute attribute)
{
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < rules->setting_count; i++) {
		const struct setting *setting = &rules->settings[i];

		if (setting->attribute == attribute && !setting->unset && setting->value < least)
			least = setting->value;
	}
	return least;
}

const char *rules_attribute_name(enum rules_attribute attribute)
{
	return attributes_known[attribute].name;
}

const char *rules_attribute_values(enum rules_attribute attribute)
{
	return attributes_known[attribute].values;
}

const char *rules_attribute_text(enum rules_attribute attribute)
{
	return attributes_known[attribute].text;
}

bool rules_attribute_works(enum rules_attribute attribute)
{
	return attributes_known[attribute].works;
}
