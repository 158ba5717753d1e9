"""Views that read and then write one row: with ATOMIC_REQUESTS, and asynchronously."""

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

from tests.processes.shelf.models import Book


def hit(request, title):
    book = Book.objects.get(title=title)
    book.hits += 1
    book.save()
    return HttpResponse(str(book.hits))


@transaction.non_atomic_requests
async def ahit(request, title):
    @sync_to_async
    def write():
        with transaction.atomic():
            return hit(request, title)

    await Book.objects.acount()
    return await write()


urlpatterns = [path("hit/<str:title>/", hit), path("ahit/<str:title>/", ahit)]
