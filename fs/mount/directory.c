#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/mount/inode.h"
#include "fs/mount/ops.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/reply.h"
#include "fs/mount/rules.h"
#include "fs/mount/sync.h"

#define CHUNK_BYTES (256u << 10)       /* of entries asked for at a time */
#define LISTING_ENTRIES_MAX 200000     /* more are not kept: a long listing is read in pieces */
/* Of one listing that come with attributes and leases. The rest has names and types only: a listing
   must not take the leases, and the memory, of all else that this host uses. */
#define LISTING_NODES_MAX 100000

/* An open directory. */
struct open_directory {
	struct inode *inode;     /* with a use */
	struct listing *listing; /* what was read so far, or the directory's whole one */
	struct sync_seen seen;
	uint32_t hint;           /* index that the next request probably begins at */
	uint32_t nodes;          /* entries that came since the start, up to LISTING_NODES_MAX */
};

void op_opendir(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info)
{
	struct mount *m = fuse_req_userdata(request);
	struct open_directory *directory = calloc(1, sizeof(*directory));
	struct inode *inode;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode && directory) {
		inode_use(m, inode);
		sync_opened(m, inode, &directory->seen);
		directory->inode = inode;
	}
	pthread_mutex_unlock(&m->lock);
	if (!inode || !directory) {
		free(directory);
		fuse_reply_err(request, inode ? ENOMEM : ESTALE);
		return;
	}
	info->fh = (uint64_t)(uintptr_t)directory;
	if (fuse_reply_open(request, info) < 0) {
		pthread_mutex_lock(&m->lock);
		inode_unuse(m, inode);
		pthread_mutex_unlock(&m->lock);
		free(directory);
	}
}

void op_fsyncdir(fuse_req_t request, fuse_ino_t nodeid, int data_only,
		 struct fuse_file_info *info)
{
	struct open_directory *directory = (struct open_directory *)(uintptr_t)info->fh;

	sync_request(request, nodeid, data_only != 0, &directory->seen);
}

void op_releasedir(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info)
{
	struct mount *m = fuse_req_userdata(request);
	struct open_directory *directory = (struct open_directory *)(uintptr_t)info->fh;

	pthread_mutex_lock(&m->lock);
	listing_unref(directory->listing);
	inode_unuse(m, directory->inode);
	pthread_mutex_unlock(&m->lock);
	free(directory);
	fuse_reply_err(request, 0);
}

/* ---- answering from a listing ---- */

struct filling {
	char *buffer;
	size_t size, used;
};

/* One entry with its inode's attributes, when they stand; of a name no more than that it is there
   (name_validity()). Under the lock. */
static void plus_entry(struct mount *m, const struct open_directory *directory,
		       const struct listing_entry *e, struct slice name,
		       struct fuse_entry_param *ret_entry, struct inode **ret_child)
{
	struct inode *child = NULL;
	const struct attributes *attributes = NULL;
	struct attributes heard;
	bool dots = slice_equal(name, slice_of(".")) || slice_equal(name, slice_of(".."));

	*ret_child = NULL;
	*ret_entry = (struct fuse_entry_param){ 0 };
	if (!dots)
		attributes = listing_attributes(m, directory->inode, directory->listing, e,
						mount_now(), &heard, &child);
	if (attributes) {
		entry_fill(m, child, attributes, ret_entry);
		*ret_child = child;
		return;
	}
	/* Without attributes: the kernel takes name and type, and looks it up when needed. */
	ret_entry->attr.st_ino = e->number;
	ret_entry->attr.st_mode = e->type;
}

/* Fills the buffer from index `at` on. Under the lock. */
static void fill(struct mount *m, fuse_req_t request, struct open_directory *directory, bool plus,
		 uint32_t at, struct filling *filling)
{
	const struct listing *listing = directory->listing;

	for (; at < listing->count; at++) {
		struct listing_entry e = listing_entry(listing, at);
		struct slice name = { (const uint8_t *)listing->names + e.name_at, e.name_length };
		char text[NAME_BYTES_MAX + 1];
		size_t left = filling->size - filling->used, need;
		char *into = filling->buffer + filling->used;

		memcpy(text, name.data, name.length);
		text[name.length] = '\0';
		if (plus) {
			struct fuse_entry_param entry;
			struct inode *child;

			plus_entry(m, directory, &e, name, &entry, &child);
			need = fuse_add_direntry_plus(request, into, left, text, &entry,
						      (off_t)e.cookie);
			if (need > left && child)
				inode_forget(m, child, 1);
		} else {
			struct stat st = { .st_ino = e.number, .st_mode = e.type };

			need = fuse_add_direntry(request, into, left, text, &st,
						 (off_t)e.cookie);
		}
		if (need > left)
			break;
		filling->used += need;
	}
	directory->hint = at;
}

/* Answers when the listing has what is wanted. Takes the lock. False: ask the origin. */
static bool from_listing(struct mount *m, fuse_req_t request, struct open_directory *directory,
			 uint64_t cookie, size_t size, bool plus)
{
	struct filling filling = { .size = size };
	struct listing *listing;
	unsigned token;
	int64_t at;

	pthread_mutex_lock(&m->lock);
	listing = directory->listing;
	at = listing ? listing_find(listing, cookie, directory->hint) : -1;
	if (at < 0 || ((uint32_t)at == listing->count && !listing->eof)) {
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	filling.buffer = malloc(size);
	if (!filling.buffer) {
		pthread_mutex_unlock(&m->lock);
		fuse_reply_err(request, ENOMEM);
		return true;
	}
	token = mount_reply_begin(m);
	fill(m, request, directory, plus, (uint32_t)at, &filling);
	pthread_mutex_unlock(&m->lock);
	fuse_reply_buf(request, filling.buffer, filling.used);
	mount_reply_end(m, token);
	free(filling.buffer);
	return true;
}

/* ---- from the origin ---- */

/* One entry of an answer: its inode and name are remembered as far as leases allow. */
static void learn(struct mount *m, struct call *call, const struct item_dirent *entry,
		  const struct answer_node *parent)
{
	struct reader r = reader_of(entry->node.data, entry->node.length);
	struct item_node node;
	struct inode *child;
	uint64_t instance;

	if (entry->node.length == 0 || !item_node_read(&r, &node) || node.handle.length == 0)
		return;
	instance = answer_grant(m, call, &node);
	if (!instance)
		return;
	child = inode_get(m, &node.handle, node.attributes.mode);
	if (!child)
		return;
	inode_set_attributes(m, child, &node.attributes, instance);
	rules_heard(m, child);
	if (!slice_equal(entry->name, slice_of(".")) && !slice_equal(entry->name, slice_of("..")))
		answer_name(m, call, parent, call->inode, &entry->name, child);
	inode_unuse(m, child);
}

/* A whole listing under one lease serves everybody, and knows every absent name. */
static void publish(struct mount *m, struct inode *inode, struct listing *listing,
		    const struct credential *credential)
{
	bool all_known = true;

	if (!listing->eof || listing->first_cookie != 0 || listing->instance == 0 ||
	    listing->serial != inode->live->listing_serial ||
	    listing->instance != holder_lease_held(m->holder, mount_now(), INODE_HANDLE(inode)))
		return;
	for (uint32_t i = 0; i < listing->count && all_known; i++) {
		struct listing_entry e = listing_entry(listing, i);
		struct slice name = { (const uint8_t *)listing->names + e.name_at, e.name_length };
		const struct name_entry *known;

		if (slice_equal(name, slice_of(".")) || slice_equal(name, slice_of("..")))
			continue;
		known = name_table_find(&inode->live->names, name);
		/* Present, but not known as an inode: a lookup has to ask. */
		all_known = known && name_table_instance(&inode->live->names, known) ==
				     listing->instance;
	}
	listing_complete(listing);
	listing_unref(inode->live->listing);
	inode_live(inode)->listing = listing_ref(listing);
	inode_live(inode)->names_complete_instance = all_known ? listing->instance : 0;
	prefetch_listed(m, inode, listing, credential);
}

static int take_in(struct mount *m, struct call *call, struct open_directory *directory)
{
	struct inode *inode = directory->inode;
	struct listing *listing = directory->listing;
	struct reader r = reader_of(call->data.data, call->data.length);
	struct item_dirent entry;
	struct answer answer;
	uint64_t instance;

	answer_work_in(m, call, NULL, NULL, &answer);
	instance = answer.nodes[NODE_DIRECTORY].instance;
	if (answer.child)
		inode_unuse(m, answer.child);
	if (listing && (listing->count == 0 || call->offset == 0 || listing->packed ||
			listing_entry(listing, listing->count - 1).cookie != call->offset ||
			listing->count > LISTING_ENTRIES_MAX || listing->references > 1)) {
		listing_unref(listing);
		listing = NULL;
	}
	if (!listing)
		listing = listing_create(instance, inode->live->listing_serial, call->offset);
	directory->listing = listing;
	directory->hint = 0;
	if (!listing)
		return -ENOMEM;
	if (listing->instance != instance)
		listing->instance = 0;
	directory->hint = listing->count;
	while (item_dirent_read(&r, &entry)) {
		learn(m, call, &entry, &answer.nodes[NODE_DIRECTORY]);
		directory->nodes += directory->nodes < LISTING_NODES_MAX;
		if (listing_append(listing, &entry) < 0)
			return -ENOMEM;
	}
	if (r.failed)
		return -EIO;
	listing->eof = call->reply.eof;
	publish(m, inode, listing, &call->message.common.credential);
	return 0;
}

static void readdir_message(struct call *call, const struct open_directory *directory,
			    uint64_t cookie)
{
	call_limit(call);
	call->offset = cookie;
	call->message.readdir.directory = inode_handle(call->inode);
	call->message.readdir.cookie = cookie;
	call->message.readdir.count = CHUNK_BYTES;
	call->message.readdir.attributes = directory->nodes < LISTING_NODES_MAX;
}

static void readdir_work(struct mount *m, struct call *call)
{
	struct open_directory *directory = call->context;
	uint64_t cookie = call->offset;
	size_t size = call->size;
	bool plus = call->plus;
	fuse_req_t request;
	int r;

	if (call->status == STATUS_STALE) {
		/* It was removed while it is open here: there is nothing in it. */
		request = call_take_request(m, call);
		call_destroy(m, call);
		if (request)
			fuse_reply_buf(request, NULL, 0);
		return;
	}
	if (call->status != STATUS_OK) {
		reply_error(m, call, call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	request = call->request;
	call->request = NULL;
	/* Without a caller the open directory may be released by now: leave it alone. */
	r = request ? take_in(m, call, directory) : 0;
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
	if (!request)
		return;
	if (r < 0)
		fuse_reply_err(request, -r);
	else if (!from_listing(m, request, directory, cookie, size, plus))
		fuse_reply_err(request, EIO); /* an answer without entries that is not the end */
}

/* ---- ahead of who will list it ---- */

static void fetch_next(struct mount *m, struct open_directory *directory, uint64_t cookie,
		       const struct credential *credential, struct prefetch_unit *unit);

static void fetch_end(struct mount *m, struct open_directory *directory, struct prefetch_unit *unit,
		      bool arrived)
{
	prefetch_ended(m, unit, arrived, NULL);
	pthread_mutex_lock(&m->lock);
	listing_unref(directory->listing);
	inode_unuse(m, directory->inode);
	pthread_mutex_unlock(&m->lock);
	free(directory);
}

static void fetch_work(struct mount *m, struct call *call)
{
	const struct credential credential = call->message.common.credential;
	struct open_directory *directory = call->context;
	struct prefetch_unit *unit = call->unit;
	bool taken = false, whole = false;
	uint64_t cookie = 0;

	if (call->status == STATUS_OK) {
		pthread_mutex_lock(&m->lock);
		taken = take_in(m, call, directory) == 0 && directory->listing->count > 0;
		whole = taken && directory->listing->eof;
		if (taken)
			cookie = listing_entry(directory->listing,
					       directory->listing->count - 1).cookie;
		/* More than is kept would come for nothing. */
		taken = taken && directory->listing->count <= LISTING_ENTRIES_MAX;
		pthread_mutex_unlock(&m->lock);
	}
	call_destroy(m, call);
	if (taken && !whole)
		fetch_next(m, directory, cookie, &credential, unit);
	else
		fetch_end(m, directory, unit, whole);
}

static void fetch_next(struct mount *m, struct open_directory *directory, uint64_t cookie,
		       const struct credential *credential, struct prefetch_unit *unit)
{
	struct call *call = call_new(m, NULL, MESSAGE_readdir);

	if (!call) {
		fetch_end(m, directory, unit, false);
		return;
	}
	call->ahead = true;
	call->unit = unit;
	call->ends_when_away = true;
	call->context = directory;
	call->message.common.credential = *credential;
	call_set_inode(m, call, directory->inode);
	readdir_message(call, directory, cookie);
	call_send(m, call, fetch_work);
}

bool directory_fetch(struct mount *m, struct inode *inode, const struct credential *credential,
		     struct prefetch_unit *unit)
{
	struct open_directory *directory = calloc(1, sizeof(*directory));

	if (!directory)
		return false;
	pthread_mutex_lock(&m->lock);
	inode_use(m, inode);
	directory->inode = inode;
	pthread_mutex_unlock(&m->lock);
	fetch_next(m, directory, 0, credential, unit);
	return true;
}

static void read_directory(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
			   struct fuse_file_info *info, bool plus)
{
	struct open_directory *directory = (struct open_directory *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);
	uint64_t cookie = (uint64_t)offset;
	struct call *call;

	if (cookie == 0) {
		/* From the start: what is there now, from the directory's listing if it stands. */
		uint64_t instance;

		pthread_mutex_lock(&m->lock);
		listing_unref(directory->listing);
		directory->listing = NULL;
		directory->hint = 0;
		directory->nodes = 0;
		sweep_saw_listing(&m->sweep, mount_now(), directory->inode->nodeid);
		prefetch_access(m, request, directory->inode,
				&(struct access){ .type = ACCESS_LIST });
		instance = inode_lease(m, directory->inode, mount_now(), NULL);
		if (instance && directory->inode->live->listing &&
		    directory->inode->live->listing->instance == instance)
			directory->listing = listing_ref(directory->inode->live->listing);
		pthread_mutex_unlock(&m->lock);
		if (directory->listing)
			COUNT(m, listings_cached);
	}
	if (from_listing(m, request, directory, cookie, size, plus))
		return;
	call = op_call(request, nodeid, MESSAGE_readdir);
	if (!call)
		return;
	readdir_message(call, directory, cookie);
	call->context = directory;
	call->size = size;
	call->plus = plus;
	call_send(m, call, readdir_work);
}

void op_readdir(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
		struct fuse_file_info *info)
{
	read_directory(request, nodeid, size, offset, info, false);
}

void op_readdirplus(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
		    struct fuse_file_info *info)
{
	read_directory(request, nodeid, size, offset, info, true);
}
