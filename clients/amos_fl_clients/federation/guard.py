"""Guard a site's work: its policy before, the check of the reply after, and the audit log.

It surrounds every kind of request in one place, so that no handler can forget it.
"""

from collections.abc import Callable, Mapping

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from pydantic import ValidationError

from amos_fl.errors import Interrupted, code_of
from amos_fl.methods import method_named
from amos_fl_clients.federation.audit import Audited
from amos_fl_clients.federation.error_replies import SiteFailure, error_reply, keep_details, words_that_may_travel
from amos_fl_clients.federation.messages import DESCRIBE, FINGERPRINT, MODEL, SHARED, Task, task_of, value_of
from amos_fl_clients.federation.policy import (
    Refusal,
    check_evaluation,
    check_histograms,
    check_method,
    check_modules,
    check_not_paused,
    check_personal,
    check_run,
    check_training,
)
from amos_fl_clients.federation.replies import ArrayForm, check_reply
from amos_fl_clients.federation.settings import SiteSettings


class GuardedApp(ClientApp):
    """A ClientApp that checks requests against the site's settings, and replies against the list of what may leave.

    `settings_of` gives the settings of the site that a context belongs to; `form_of` the names, shapes and dtypes of
    the arrays in an update of a task.
    """

    def __init__(
        self,
        settings_of: Callable[[Context], SiteSettings],
        form_of: Callable[[SiteSettings, Task], Mapping[str, ArrayForm]],
    ) -> None:
        super().__init__()
        self._settings_of = settings_of
        self._form_of = form_of

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer to a request: a reply of its kind, or an error reply that may leave the site.

        Raises:
            Interrupted: a stop was requested.
            AmosError: the site's settings cannot be read.
        """
        settings = self._settings_of(context)
        try:
            return self._answer(settings, message, context)
        except Interrupted:
            raise
        except Exception as error:
            return error_reply(message, settings.site, error, in_full=settings.share_error_details)

    def answer(self, message: Message, context: Context) -> Message:
        """Answer a request, or raise an error in words that may leave the site."""
        return self._answer(self._settings_of(context), message, context)

    def _answer(self, settings: SiteSettings, message: Message, context: Context) -> Message:
        audited = Audited(settings.site, settings.state, message)
        try:
            try:
                task = _allowed_task(settings, message)
                reply = super().__call__(message, context)
                trains = message.metadata.message_type == "train"
                form = self._form_of(settings, task) if trains else None
                reports = method_named(task.method, task.method_options).reports if trains else ()
                check_reply(reply, settings, organs=task.organs, form=form, reports=reports)
            except Refusal as refusal:
                audited.refused(str(refusal))
                raise
            except Exception as error:
                audited.failed(words_that_may_travel(error, settings.site))
                raise
            except BaseException:
                audited.failed("its process was ended")
                raise
            audited.sent(reply)
            return reply
        except Exception as error:
            if settings.share_error_details or isinstance(error, (Interrupted, Refusal)):
                raise
            words, code = words_that_may_travel(error, settings.site), code_of(error)
            keep_details(settings, error)
        # Outside the handlers, so that the new error carries nothing of the old one.
        raise SiteFailure(words, code=code)


def _allowed_task(settings: SiteSettings, message: Message) -> Task:
    """The task of a request that the site's settings allow.

    Raises:
        Refusal: they do not, or it is not one of our requests.
    """
    check_not_paused(settings)
    kind = message.metadata.message_type
    if kind not in (DESCRIBE, FINGERPRINT, "train", "evaluate"):
        raise Refusal(settings.site, "it answers to describe, fingerprint, train and evaluate only")
    try:
        task = task_of(message)
        if kind in ("train", "evaluate"):
            check_modules(settings, task.own_code, task.modules)
        if kind == "train":
            check_training(settings, int(value_of(message, "round")), int(value_of(message, "steps")))
            check_method(settings, task.method, task.method_options)
        elif kind == FINGERPRINT:
            check_histograms(settings)
        elif kind == "evaluate":
            check_evaluation(settings, str(value_of(message, "split")))
            if (model := str(value_of(message, MODEL, SHARED))) != SHARED:
                check_personal(settings, model, task.method, task.method_options)
    except (KeyError, TypeError, ValueError, ValidationError):
        raise Refusal(settings.site, "the request comes from a different version of amos-fl") from None
    check_run(settings, task.run_id)
    return task
