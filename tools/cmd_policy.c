/*
 * cmd_policy - leasehold policy set, get, edit, check, attributes: what is to be done with which files.
 *
 * A policy is an extended attribute of a directory, user.leasehold.policy: on a mount the origin checks
 * and stores it, in the exported directory it is the same attribute of the file system. A text is checked
 * here first, since an errno cannot say in which line something is wrong.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "prefetch/rules.h"
#include "tools/cmd.h"
#include "tools/xattr.h"

#define TEXT_BYTES_MAX 65536 /* the kernel's limit on one value */
#define FILES_MAX 256

struct arguments {
	const char *names[FILES_MAX];
	int count;
	bool none, match;
};

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	(void)context;
	(void)old_size;
	if (size > 0)
		return realloc(pointer, size);
	free(pointer);
	return NULL;
}

static const struct allocator allocator = { resize, NULL };

static void complain(const char *name, const char *why)
{
	fprintf(stderr, "leasehold policy: %s: %s\n", name, why);
}

/* What nothing acts on yet is told, so that nobody waits for it. */
static void note_later(const char *name, const struct rules *rules)
{
	bool any = false;

	for (unsigned i = 0; i < RULES_ATTRIBUTE_COUNT; i++) {
		if (!rules_sets(rules, i) || rules_attribute_works(i))
			continue;
		fprintf(stderr, any ? ", %s" : "leasehold policy: %s: note: kept, and without an "
			"effect in this version: %s", any ? rules_attribute_name(i) : name,
			rules_attribute_name(i));
		any = true;
	}
	if (any)
		fputc('\n', stderr);
}

/* True: it makes sense; else it was said why not. */
static bool check_text(const char *name, const char *text, size_t length)
{
	struct rules_error error;
	struct rules *rules;
	int r = rules_compile(&allocator, (struct slice){ (const uint8_t *)text, length }, &rules,
			      &error);

	if (r == -EINVAL)
		fprintf(stderr, "leasehold policy: %s: line %" PRIu32 ", column %" PRIu32 ": %s\n",
			name, error.line, error.column, error.text);
	else if (r < 0)
		complain(name, strerror(-r));
	if (r < 0)
		return false;
	note_later(name, rules);
	rules_destroy(rules);
	return true;
}

/* FILE, or "-", to be freed; NULL: it was said why not. */
static char *read_text(const char *name, size_t *ret_length)
{
	bool standard = strcmp(name, "-") == 0;
	char *text = malloc(TEXT_BYTES_MAX + 1);
	FILE *in = standard ? stdin : fopen(name, "re");
	int error = errno;

	if (text && in) {
		*ret_length = fread(text, 1, TEXT_BYTES_MAX, in);
		error = ferror(in) ? errno : 0;
		text[*ret_length] = '\0';
	} else if (!text) {
		error = ENOMEM;
	}
	if (in && !standard)
		(void)fclose(in); /* it was only read */
	if (!error)
		return text;
	complain(name, strerror(error));
	free(text);
	return NULL;
}

static const char *text_name(const char *file)
{
	return strcmp(file, "-") == 0 ? "standard input" : file;
}

/* Durable when this returns, where the file system can. */
static bool store(const char *path, const char *text, size_t length)
{
	int fd, error = 0;

	if (text ? setxattr(path, XATTR_POLICY, text, length, 0) < 0 :
		   removexattr(path, XATTR_POLICY) < 0 && errno != ENODATA)
		error = errno;
	fd = error ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0) {
		if (fsync(fd) < 0)
			error = errno;
		close(fd);
	}
	if (!error)
		return true;
	complain(path, error == EINVAL ? "the origin refuses it; is it of another version?" :
		       error == ENOTDIR ? "not a directory; only directories have policies" :
		       error == EPERM || error == EACCES ?
			       "only who may write to the directory may set its policy, and only root one "
			       "that seals" :
		       error == ENOSPC ? "the origin's file system has no room for so long an attribute" :
		       error == EOPNOTSUPP ?
			       "the origin's file system has no user.* attributes, so no policies" :
			       strerror(error));
	return false;
}

/*
 * The policy that `path` itself has, to be freed; "" when it has none; NULL: it was said why not. On a
 * mount, what has none tells what others say of it, in lines that would be no policy.
 */
static char *load(const char *path)
{
	char *text, *rules;
	struct stat st;
	int r;

	if (stat(path, &st) < 0) {
		complain(path, strerror(errno));
		return NULL;
	}
	if (!S_ISDIR(st.st_mode)) {
		complain(path, "not a directory; what policies say of a file: leasehold policy get "
			       "--match");
		return NULL;
	}
	r = xattr_get(path, "policy", &text);
	if (r == 0 && xattr_get(path, "rules", &rules) == 0) {
		if (strcmp(text, rules) == 0)
			*text = '\0';
		free(rules);
	}
	if (r == 0)
		return text;
	if (r == -ENODATA)
		return strdup("");
	complain(path, strerror(-r));
	return NULL;
}

static int run_set(const struct arguments *a)
{
	const char *file = a->count > 1 ? a->names[1] : "-";
	size_t length = 0;
	char *text;
	bool good;

	if (a->none)
		return store(a->names[0], NULL, 0) ? EXIT_SUCCESS : EXIT_FAILURE;
	text = read_text(file, &length);
	if (!text)
		return EXIT_FAILURE;
	good = check_text(text_name(file), text, length);
	if (good && length == 0) {
		complain(text_name(file), "empty; to take the policy away: leasehold policy set --none");
		good = false;
	}
	good = good && store(a->names[0], text, length);
	free(text);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run_match(const char *path)
{
	char *text = NULL;
	int r = xattr_get(path, "rules", &text);

	if (r == -ENODATA && xattr_is_leasehold(path) == -ENODATA) {
		complain(path, "not on a Leasehold mount");
		return EXIT_FAILURE;
	}
	if (r < 0 && r != -ENODATA) {
		complain(path, strerror(-r));
		return EXIT_FAILURE;
	}
	fputs(text ? text : "", stdout);
	free(text);
	return EXIT_SUCCESS;
}

static int run_get(const struct arguments *a)
{
	char *text;

	if (a->match)
		return run_match(a->names[0]);
	text = load(a->names[0]);
	if (!text)
		return EXIT_FAILURE;
	fputs(text, stdout);
	if (*text && text[strlen(text) - 1] != '\n')
		putchar('\n');
	free(text);
	return EXIT_SUCCESS;
}

static int run_check(const struct arguments *a)
{
	int status = EXIT_SUCCESS;

	for (int i = 0; i < a->count; i++) {
		size_t length = 0;
		char *text = read_text(a->names[i], &length);

		if (!text || !check_text(text_name(a->names[i]), text, length))
			status = EXIT_FAILURE;
		free(text);
	}
	return status;
}

static int run_attributes(const struct arguments *a)
{
	struct rules_attributes fallback;

	(void)a;
	rules_attributes_init(&fallback);
	for (unsigned i = 0; i < RULES_ATTRIBUTE_COUNT; i++) {
		char value[RULES_VALUE_BYTES];

		rules_value_text(i, fallback.values[i], value);
		printf("%s\t%s\t%s\t%s\t%s\n", rules_attribute_name(i), rules_attribute_values(i), value,
		       rules_attribute_works(i) ? "now" : "later", rules_attribute_text(i));
	}
	return EXIT_SUCCESS;
}

/* ---- edit ---- */

static bool run_editor(const char *file)
{
	static const char script[] = "exec ${VISUAL:-${EDITOR:-vi}} \"$1\"";
	pid_t child = fork();
	int status = -1;

	if (child == 0) {
		execl("/bin/sh", "sh", "-c", script, "leasehold", file, (char *)NULL);
		_exit(127);
	}
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool wants_again(void)
{
	int answer, c;

	if (!isatty(STDIN_FILENO))
		return false;
	fputs("Edit it again? [Y/n] ", stderr);
	answer = getchar();
	for (c = answer; c != '\n' && c != EOF; c = getchar())
		;
	return answer == '\n' || answer == 'y' || answer == 'Y';
}

static bool make_file(char *file, const char *text)
{
	size_t length = strlen(text);
	int fd = mkstemp(file);
	bool good = fd >= 0 && write(fd, text, length) == (ssize_t)length &&
		    (length == 0 || text[length - 1] == '\n' || write(fd, "\n", 1) == 1);

	if (!good)
		complain(file, strerror(errno));
	if (fd >= 0)
		close(fd);
	return good;
}

/* What is in `file` becomes the policy of `path`, which was `old`. */
static bool take_file(const char *path, const char *file, const char *old)
{
	for (;;) {
		size_t length = 0;
		char *text, *now;
		bool good;

		if (!run_editor(file)) {
			complain(path, "the editor failed ($VISUAL, $EDITOR or vi); nothing has changed");
			return false;
		}
		text = read_text(file, &length);
		if (!text)
			return false;
		if (check_text(file, text, length)) {
			now = load(path);
			good = now && strcmp(now, old) == 0;
			if (now && !good)
				complain(path, "somebody else has changed the policy meanwhile");
			good = good && store(path, length ? text : NULL, length);
			free(now);
			free(text);
			return good;
		}
		free(text);
		if (!wants_again())
			return false;
	}
}

static int run_edit(const struct arguments *a)
{
	const char *directory = getenv("TMPDIR");
	char *old = load(a->names[0]), *file = NULL;
	bool good = false;

	if (!old)
		return EXIT_FAILURE;
	if (asprintf(&file, "%s/leasehold-policy-XXXXXX", directory && *directory ? directory : "/tmp") < 0)
		file = NULL;
	if (file && make_file(file, old)) {
		good = take_file(a->names[0], file, old);
		if (good)
			(void)unlink(file); /* nobody misses it */
		else
			fprintf(stderr, "leasehold policy: the policy is as it was; what was edited is "
				"in %s\n", file);
	}
	free(file);
	free(old);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- the command line ---- */

static const struct verb {
	const char *name;
	const char *title;
	int (*run)(const struct arguments *a);
	int least, most;
	const char *arguments;
	const char *text;
} verbs[] = {
	{ "set", "leasehold policy set", run_set, 1, 2, "DIRECTORY [FILE]",
	  "Makes what is in FILE (- or none: standard input) the policy of the directory, on a mount or "
	  "exported." },
	{ "get", "leasehold policy get", run_get, 1, 1, "PATH",
	  "Prints the policy that the directory has." },
	{ "edit", "leasehold policy edit", run_edit, 1, 1, "DIRECTORY",
	  "Lets you edit the policy of the directory with $VISUAL, $EDITOR or vi." },
	{ "check", "leasehold policy check", run_check, 1, FILES_MAX, "FILE ...",
	  "Says what is wrong with policies, and where. Changes nothing." },
	{ "attributes", "leasehold policy attributes", run_attributes, 0, 0, "",
	  "Prints all attributes: name, values, default, whether this version acts on it, what it is." },
};

#define VERB_COUNT (sizeof(verbs) / sizeof(verbs[0]))

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case 'n':
		a->none = true;
		return 0;
	case 'm':
		a->match = true;
		return 0;
	case ARGP_KEY_ARG:
		if (a->count == FILES_MAX)
			return ARGP_ERR_UNKNOWN;
		a->names[a->count++] = arg;
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static const struct argp_option set_rows[] = {
	{ "none", 'n', NULL, 0, "take the policy of the directory away", 0 },
	{ 0 },
};

static const struct argp_option get_rows[] = {
	{ "match", 'm', NULL, 0, "which lines say what of PATH, on a mount", 0 },
	{ 0 },
};

static int run_verb(const struct verb *verb, int argc, char **argv)
{
	const struct argp argp = {
		.options = verb->run == run_set ? set_rows : verb->run == run_get ? get_rows : NULL,
		.parser = parse,
		.args_doc = verb->arguments,
		.doc = verb->text,
	};
	struct arguments a = { .count = 0 };

	argv[0] = (char *)verb->title; /* argp only reads it */
	if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
		return EXIT_USAGE;
	if (a.count < verb->least || a.count > verb->most || (a.none && a.count > 1)) {
		fprintf(stderr, "usage: %s %s\n", verb->title, verb->arguments);
		return EXIT_USAGE;
	}
	return verb->run(&a);
}

int cmd_policy(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	bool help = strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;

	for (size_t i = 0; i < VERB_COUNT; i++)
		if (strcmp(name, verbs[i].name) == 0)
			return run_verb(&verbs[i], argc - 1, argv + 1);
	fprintf(help ? stdout : stderr, "usage: leasehold policy set [--none] DIRECTORY [FILE]\n"
		"       leasehold policy get [--match] PATH\n"
		"       leasehold policy edit DIRECTORY\n"
		"       leasehold policy check FILE ...\n"
		"       leasehold policy attributes\n"
		"What is to be done with which files: leasehold-policy(1), leasehold-policy(5).\n");
	return help ? EXIT_SUCCESS : EXIT_USAGE;
}
