#include "fs/mount/subdirectory.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fs/mount/rules.h"

/* One name; the call's context until it is answered. */
struct step {
	pthread_cond_t done; /* with the mount's lock */
	bool answered;
	int error;
	struct item_node node;
};

static void step_work(struct mount *m, struct call *call)
{
	struct reader r = reader_of(call->reply.nodes.data, call->reply.nodes.length);
	struct step *step = call->context;
	struct item_node node;
	int error = call->status == STATUS_OK ? EIO : call_errno(call);

	while (call->status == STATUS_OK && item_node_read(&r, &node)) {
		if (node.role != NODE_TARGET)
			continue;
		step->node = node;
		error = S_ISDIR(node.attributes.mode) ? 0 : ENOTDIR;
	}
	call_destroy(m, call);
	pthread_mutex_lock(&m->lock);
	step->error = error;
	step->answered = true;
	pthread_cond_signal(&step->done);
	pthread_mutex_unlock(&m->lock);
}

static int look_up(struct mount *m, const char *name, struct item_node *node)
{
	struct step step = { .answered = false };
	struct call *call = call_new(m, NULL, MESSAGE_lookup);

	if (!call)
		return -ENOMEM;
	pthread_cond_init(&step.done, NULL);
	call->context = &step;
	call->deadline = instant_add(mount_now(), duration_ms(m->options->timeout));
	call->message.lookup.directory = node->handle;
	call->message.lookup.name = call_name(call, 0, name);
	call_send(m, call, step_work);
	pthread_mutex_lock(&m->lock);
	while (!step.answered)
		pthread_cond_wait(&step.done, &m->lock);
	pthread_mutex_unlock(&m->lock);
	pthread_cond_destroy(&step.done);
	if (!step.error)
		*node = step.node;
	return -step.error;
}

int subdirectory_find(struct mount *m, const char *path, struct item_node *root, char *text,
		      size_t text_size)
{
	for (const char *at = path; *at;) {
		char name[NAME_BYTES_MAX + 1];
		size_t length = strcspn(at, "/");
		int r = length > NAME_BYTES_MAX ? -ENAMETOOLONG : 0;

		if (r == 0 && length > 0) {
			memcpy(name, at, length);
			name[length] = '\0';
			if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
				r = -EINVAL;
			else if (rules_above(m, root, at), true)
				r = look_up(m, name, root);
		}
		at += length;
		if (r < 0) {
			snprintf(text, text_size, "origin %s, export \"%s\": %s: %.*s", m->origin_url,
				 m->export, strerror(-r), (int)(at - path), path);
			return r;
		}
		at += *at == '/';
	}
	return 0;
}
